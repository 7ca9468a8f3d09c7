-- The services that had events in [from_us, to_us).
SELECT service, sum(events) AS events, sum(errors) AS errors
FROM windows
WHERE start_us >= :from_us AND start_us < :to_us
GROUP BY service
ORDER BY service
