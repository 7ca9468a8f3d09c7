-- The first window of one service, to five minutes where only rollups tell, and the last one of all.
SELECT
    (
        SELECT min(first) FROM (
            SELECT min(start_us) AS first FROM windows WHERE service = :service
            UNION ALL
            SELECT min(start_us) FROM rollups
            WHERE service = :service AND step_s = 300 AND start_us < (SELECT raw_from_us FROM rollup_state)
        ) AS found
    ) AS first_start_us,
    coalesce((SELECT max(start_us) FROM windows), (SELECT max(start_us) FROM rollups WHERE step_s = 60)) AS last_start_us
