-- Incidents with their newest report's title and first claim, the latest first: those that come after (before_us, before_id).
SELECT
    i.id, i.state, i.severity, i.opened_at AS opened_us, i.updated_at AS updated_us, i.resolved_at AS resolved_us,
    i.document::text AS document,
    r.revision, r.generator, r.document #>> '{report,title}' AS title,
    r.document #>> '{report,summary,0,text}' AS headline
FROM incidents AS i
LEFT JOIN reports AS r
    ON r.incident_id = i.id AND r.revision = (SELECT max(revision) FROM reports WHERE incident_id = i.id)
WHERE (:state::text = '' OR i.state = :state OR (:state::text = 'open' AND i.state <> 'resolved'))
  AND (
      :service::text = '' OR EXISTS (
          SELECT 1 FROM jsonb_array_elements(i.document -> 'members') AS m WHERE m ->> 'service' = :service
      )
  )
  AND (i.opened_at < :before_us OR (i.opened_at = :before_us AND i.id > :before_id))
ORDER BY i.opened_at DESC, i.id
LIMIT :limit
