-- By what one sees that an incident or its report changed: of those that opened last, and of the given ids (a JSON array).
SELECT i.id, i.state, i.updated_at AS updated_us, r.revision, r.created_at AS created_us
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE i.id IN (SELECT id FROM incidents ORDER BY opened_at DESC LIMIT :limit)
   OR i.id IN (SELECT jsonb_array_elements_text(:ids::text::jsonb))
ORDER BY i.updated_at, i.id
