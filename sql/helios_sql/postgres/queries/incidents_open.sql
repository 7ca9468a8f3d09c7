-- The incidents that are not resolved, the latest first.
SELECT id, state, severity, opened_at AS opened_us, updated_at AS updated_us,
    resolved_at AS resolved_us, document::text AS document
FROM incidents
WHERE state <> 'resolved'
ORDER BY opened_at DESC, id
LIMIT :limit
