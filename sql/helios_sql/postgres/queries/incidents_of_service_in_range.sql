-- The incidents with alerts of one service that were open at some time in [from_us, to_us).
SELECT id, state, severity, opened_at AS opened_us, resolved_at AS resolved_us, document::text AS document
FROM incidents AS i
WHERE i.opened_at < :to_us AND (i.resolved_at IS NULL OR i.resolved_at >= :from_us)
  AND EXISTS (
      SELECT 1 FROM jsonb_array_elements(i.document -> 'members') AS m WHERE m ->> 'service' = :service
  )
ORDER BY i.opened_at, i.id
LIMIT :limit
