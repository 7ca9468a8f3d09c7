-- What is in the store as a whole: all of it is read, once.
SELECT
    coalesce(sum(w.events), 0)::bigint AS events, coalesce(sum(w.unparsed), 0)::bigint AS unparsed,
    count(*) AS windows, (SELECT count(*) FROM incidents) AS incidents
FROM (
    SELECT sum(events) AS events, sum(unparsed) AS unparsed FROM windows GROUP BY service, signal, start_time
) AS w
