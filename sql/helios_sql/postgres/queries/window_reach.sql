-- The first window of one service, and the last one of all.
SELECT
    (SELECT min(start_time) FROM windows WHERE service = :service) AS first_start_us,
    (SELECT max(start_time) FROM windows) AS last_start_us
