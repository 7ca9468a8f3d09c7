-- What is in the store as a whole.
SELECT
    (SELECT coalesce(sum(events), 0) FROM windows)::bigint AS events,
    (SELECT coalesce(sum(unparsed), 0) FROM windows)::bigint AS unparsed,
    (SELECT count(*) FROM (SELECT DISTINCT service, signal, start_time FROM windows) AS w) AS windows,
    (SELECT count(*) FROM incidents) AS incidents
