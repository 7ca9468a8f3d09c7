-- By what one sees that an incident or its report changed: of those that opened last, and of the given ids (a JSON array).
SELECT i.id, i.state, i.updated_us, r.revision, r.created_us
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE i.id IN (SELECT id FROM incidents ORDER BY opened_us DESC LIMIT :limit)
   OR i.id IN (SELECT value FROM json_each(:ids))
ORDER BY i.updated_us, i.id
