-- The windows of one service that start in [from_us, to_us), merged over hosts where SQL can;
-- the sketches of their rows follow in windows_rows_of_service.
SELECT
    start_us, duration_ms,
    sum(events) AS events, sum(errors) AS errors, sum(warnings) AS warnings, sum(unparsed) AS unparsed,
    sum(latency_count) AS latency_count, sum(latency_sum_us) AS latency_sum_us
FROM windows
WHERE service = :service AND start_us >= :from_us AND start_us < :to_us
GROUP BY start_us, duration_ms
ORDER BY start_us
