-- What was counted in [from_us, to_us).
SELECT
    coalesce(sum(events), 0)::bigint AS events, coalesce(sum(errors), 0)::bigint AS errors,
    coalesce(sum(unparsed), 0)::bigint AS unparsed, count(DISTINCT service) AS services
FROM windows
WHERE start_time >= :from_us AND start_time < :to_us
