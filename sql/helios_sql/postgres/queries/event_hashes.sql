-- The content of events that are already there, to tell a repeat from a conflict. One search for each, whatever the
-- planner believes: it would read all that is compressed once. OFFSET 0 keeps it from joining in another way.
SELECT e.time AS time_us, e.idem_key, e.content_hash
FROM unnest(:times::timestamptz[], :keys::bytea[]) AS asked (time, idem_key)
CROSS JOIN LATERAL (
    SELECT * FROM events AS i WHERE i.time = asked.time AND i.idem_key = asked.idem_key OFFSET 0
) AS e
