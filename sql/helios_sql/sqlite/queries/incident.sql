-- One incident with its newest report's title and first claim.
SELECT
    i.id, i.state, i.severity, i.opened_us, i.updated_us, i.resolved_us, i.document,
    r.revision, r.generator, json_extract(r.document, '$.report.title') AS title,
    json_extract(r.document, '$.report.summary[0].text') AS headline
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE i.id = :id
