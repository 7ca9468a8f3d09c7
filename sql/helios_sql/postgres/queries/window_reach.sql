-- The first window of one service, to five minutes where only rollups tell, and the last one of all.
SELECT
    (
        SELECT min(first) FROM (
            SELECT min(start_time) AS first FROM windows WHERE service = :service
            UNION ALL
            SELECT min(start_time) FROM rollups
            WHERE service = :service AND step_s = 300 AND start_time < (SELECT raw_from FROM rollup_state)
        ) AS found
    ) AS first_start_us,
    coalesce((SELECT max(start_time) FROM windows), (SELECT max(start_time) FROM rollups WHERE step_s = 60)) AS last_start_us
