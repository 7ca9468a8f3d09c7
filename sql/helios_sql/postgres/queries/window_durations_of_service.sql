-- The durations and signals of the windows of one service that start in [from_us, to_us). Of the usual ones, logs of ten
-- seconds, one is sought (by a range, as in services_known); the others have an index of their own.
SELECT duration_ms, signal FROM (
    SELECT 10000 AS duration_ms, 1::smallint AS signal
    WHERE (
        SELECT true FROM windows
        WHERE service >= :service AND service <= :service AND start_time >= :from_us AND start_time < :to_us
          AND duration_ms = 10000 AND signal = 1
        ORDER BY service, start_time
        LIMIT 1
    )
    UNION
    SELECT duration_ms, signal FROM windows
    WHERE service = :service AND start_time >= :from_us AND start_time < :to_us
      AND (duration_ms <> 10000 OR signal <> 1)
) AS found
ORDER BY duration_ms, signal
