-- The incidents with alerts of one service that were open at some time in [from_us, to_us).
SELECT id, state, severity, opened_us, resolved_us, document
FROM incidents AS i
WHERE i.opened_us < :to_us AND (i.resolved_us IS NULL OR i.resolved_us >= :from_us)
  AND EXISTS (
      SELECT 1 FROM json_each(i.document, '$.members') AS m WHERE json_extract(m.value, '$.service') = :service
  )
ORDER BY i.opened_us, i.id
LIMIT :limit
