-- What is in the store as a whole.
SELECT
    (SELECT coalesce(sum(events), 0) FROM windows) AS events,
    (SELECT coalesce(sum(unparsed), 0) FROM windows) AS unparsed,
    (SELECT count(*) FROM (SELECT DISTINCT service, signal, start_us FROM windows)) AS windows,
    (SELECT count(*) FROM incidents) AS incidents
