-- The newest revision.
SELECT revision, created_us, generator, document, markdown
FROM reports WHERE incident_id = :incident_id
ORDER BY revision DESC
LIMIT 1
