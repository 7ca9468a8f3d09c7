-- When the oldest of what retention drops was.
SELECT min(time_us) AS time_us FROM (
    SELECT min(start_us) AS time_us FROM windows
    UNION ALL SELECT min(time_us) FROM events
    UNION ALL SELECT min(time_us) FROM metrics
    UNION ALL SELECT min(decided_us) FROM anomalies
)
