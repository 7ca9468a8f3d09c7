-- One incident with its newest report's title and first claim.
SELECT
    i.id, i.state, i.severity, i.opened_at AS opened_us, i.updated_at AS updated_us, i.resolved_at AS resolved_us,
    i.document::text AS document,
    r.revision, r.generator, r.document #>> '{report,title}' AS title,
    r.document #>> '{report,summary,0,text}' AS headline
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE i.id = :id
