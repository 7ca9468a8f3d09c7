-- What was counted in [from_us, to_us).
SELECT
    coalesce(sum(events), 0) AS events, coalesce(sum(errors), 0) AS errors,
    coalesce(sum(unparsed), 0) AS unparsed, count(DISTINCT service) AS services
FROM windows
WHERE start_us >= :from_us AND start_us < :to_us
