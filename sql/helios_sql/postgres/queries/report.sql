-- The newest revision.
SELECT revision, created_at AS created_us, generator, document::text AS document, markdown
FROM reports WHERE incident_id = :incident_id
ORDER BY revision DESC
LIMIT 1
