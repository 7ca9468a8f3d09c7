-- The traces of the sampled events of one service in [from_us, to_us).
SELECT DISTINCT trace_id FROM events
WHERE service = :service AND time >= :from_us AND time < :to_us AND trace_id <> ''
LIMIT :limit
