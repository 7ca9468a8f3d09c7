-- The content of events that are already there, to tell a repeat from a conflict.
SELECT e.time AS time_us, e.idem_key, e.content_hash
FROM events AS e
JOIN unnest(:times::timestamptz[], :keys::bytea[]) AS asked (time, idem_key) USING (time, idem_key)
