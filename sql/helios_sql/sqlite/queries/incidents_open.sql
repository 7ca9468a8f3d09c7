-- The incidents that are not resolved, the latest first.
SELECT id, state, severity, opened_us, updated_us, resolved_us, document
FROM incidents
WHERE state <> 'resolved'
ORDER BY opened_us DESC, id
LIMIT :limit
