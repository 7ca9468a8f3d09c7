SELECT id, state, severity, opened_at AS opened_us, updated_at AS updated_us,
    resolved_at AS resolved_us, document::text AS document
FROM incidents
ORDER BY opened_at DESC, id
LIMIT :limit
