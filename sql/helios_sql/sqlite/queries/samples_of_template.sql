SELECT time_us, service, level, message, latency_us, endpoint, trace_id, host, template_id
FROM events
WHERE service = :service AND time_us >= :from_us AND time_us < :to_us AND template_id = :template_id
ORDER BY time_us
LIMIT :limit
