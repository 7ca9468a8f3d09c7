-- Every service that has windows, with its first and its last one: one seek of the index for each name.
WITH RECURSIVE names (service) AS (
    SELECT min(service) FROM windows
    UNION ALL
    SELECT (SELECT min(w.service) FROM windows AS w WHERE w.service > names.service)
    FROM names
    WHERE names.service IS NOT NULL
)
SELECT
    service,
    (SELECT min(w.start_time) FROM windows AS w WHERE w.service = names.service) AS first_start_us,
    (SELECT max(w.start_time) FROM windows AS w WHERE w.service = names.service) AS last_start_us,
    (
        SELECT w.duration_ms FROM windows AS w
        WHERE w.service = names.service
        ORDER BY w.start_time DESC
        LIMIT 1
    ) AS last_duration_ms
FROM names
WHERE service IS NOT NULL
LIMIT :limit
