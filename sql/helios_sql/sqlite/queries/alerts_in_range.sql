SELECT document FROM anomalies
WHERE decided_us >= :from_us AND decided_us < :to_us
ORDER BY decided_us, id
