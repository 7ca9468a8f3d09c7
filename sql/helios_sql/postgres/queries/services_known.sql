-- Every service that has windows, with its first and its last one. Whatever has windows has a mark or a rollup: their
-- names are one seek for each in one table, where windows are a table for each day. The service is asked for as a range
-- and ordered by, so that only the index that begins with it will do: by time alone, all the days would be read after the
-- last window of a service that is gone.
WITH RECURSIVE rolled (service) AS (
    SELECT min(service) FROM rollups
    UNION ALL
    SELECT (SELECT min(r.service) FROM rollups AS r WHERE r.service > rolled.service)
    FROM rolled
    WHERE rolled.service IS NOT NULL
), marked (service) AS (
    SELECT min(service) FROM rollup_pending
    UNION ALL
    SELECT (SELECT min(p.service) FROM rollup_pending AS p WHERE p.service > marked.service)
    FROM marked
    WHERE marked.service IS NOT NULL
)
SELECT
    names.service, first.start_time AS first_start_us, last.start_time AS last_start_us,
    last.duration_ms AS last_duration_ms
FROM (SELECT service FROM rolled UNION SELECT service FROM marked) AS names
CROSS JOIN LATERAL (
    SELECT w.start_time FROM windows AS w
    WHERE w.service >= names.service AND w.service <= names.service
    ORDER BY w.service, w.start_time
    LIMIT 1
) AS first
CROSS JOIN LATERAL (
    SELECT w.start_time, w.duration_ms FROM windows AS w
    WHERE w.service >= names.service AND w.service <= names.service
    ORDER BY w.service DESC, w.start_time DESC
    LIMIT 1
) AS last
WHERE names.service IS NOT NULL
ORDER BY names.service
LIMIT :limit
