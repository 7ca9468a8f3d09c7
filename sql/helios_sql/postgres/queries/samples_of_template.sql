SELECT time AS time_us, service, level, message, latency_us, endpoint, trace_id, host, template_id
FROM events
WHERE service = :service AND time >= :from_us AND time < :to_us AND template_id = :template_id
ORDER BY time
LIMIT :limit
