-- The first window of one service, to five minutes where only rollups tell, and the last one of all. min() and max() say
-- the same, and are planned for three times as long where there are many days; a range as in services_known.
SELECT
    least(
        (
            SELECT start_time FROM windows
            WHERE service >= :service AND service <= :service
            ORDER BY service, start_time
            LIMIT 1
        ),
        (
            SELECT min(start_time) FROM rollups
            WHERE service = :service AND step_s = 300 AND start_time < (SELECT raw_from FROM rollup_state)
        )
    ) AS first_start_us,
    coalesce(
        (SELECT start_time FROM windows ORDER BY start_time DESC LIMIT 1),
        (SELECT max(start_time) FROM rollups WHERE step_s = 60)
    ) AS last_start_us
