-- The first window of one service, and the last one of all.
SELECT
    (SELECT min(start_us) FROM windows WHERE service = :service) AS first_start_us,
    (SELECT max(start_us) FROM windows) AS last_start_us
