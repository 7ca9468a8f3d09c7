-- Incidents with their newest report's title and first claim, the latest first: those that come after (before_us, before_id).
SELECT
    i.id, i.state, i.severity, i.opened_us, i.updated_us, i.resolved_us, i.document,
    r.revision, r.generator, json_extract(r.document, '$.report.title') AS title,
    json_extract(r.document, '$.report.summary[0].text') AS headline
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE (:state = '' OR i.state = :state OR (:state = 'open' AND i.state <> 'resolved'))
  AND (
      :service = '' OR EXISTS (
          SELECT 1 FROM json_each(i.document, '$.members') AS m WHERE json_extract(m.value, '$.service') = :service
      )
  )
  AND (i.opened_us < :before_us OR (i.opened_us = :before_us AND i.id > :before_id))
ORDER BY i.opened_us DESC, i.id
LIMIT :limit
