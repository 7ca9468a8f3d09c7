SELECT document::text AS document FROM anomalies
WHERE decided_at >= :from_us AND decided_at < :to_us
ORDER BY decided_at, id
