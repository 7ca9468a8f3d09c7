-- The services that had events in [from_us, to_us).
SELECT service, sum(events)::bigint AS events, sum(errors)::bigint AS errors
FROM windows
WHERE start_time >= :from_us AND start_time < :to_us
GROUP BY service
ORDER BY service
