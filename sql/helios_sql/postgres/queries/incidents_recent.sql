-- By what one sees that an incident or its report changed: of those that opened last, and of the given ids (a JSON array).
-- As an array the ids are sought; joined, all incidents and reports would be read, every few seconds.
SELECT i.id, i.state, i.updated_at AS updated_us, r.revision, r.created_at AS created_us
FROM incidents AS i
LEFT JOIN LATERAL (
    SELECT revision, created_at FROM reports WHERE incident_id = i.id ORDER BY revision DESC LIMIT 1
) AS r ON true
WHERE i.id = ANY (ARRAY(
    SELECT id FROM (SELECT id FROM incidents ORDER BY opened_at DESC LIMIT :limit) AS latest
    UNION
    SELECT jsonb_array_elements_text(:ids::text::jsonb)
))
ORDER BY i.updated_at, i.id
