-- How many events the store has counted of a service in [from_us, to_us).
SELECT coalesce(sum(events), 0)::bigint AS events FROM windows
WHERE service = :service AND start_time >= :from_us AND start_time < :to_us
