SELECT id, state, severity, opened_us, updated_us, resolved_us, document
FROM incidents
ORDER BY opened_us DESC, id
LIMIT :limit
