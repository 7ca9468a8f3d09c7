-- All open incidents, and the last that are resolved: what a reporter that starts has to know.
SELECT document::text AS document FROM incidents
WHERE state <> 'resolved'
   OR id IN (SELECT id FROM incidents WHERE state = 'resolved' ORDER BY updated_at DESC LIMIT :limit)
ORDER BY opened_at, id
