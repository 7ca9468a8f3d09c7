-- Nobody else changes the rollups of these services until the transaction ends.
SELECT pg_advisory_xact_lock(hashtextextended(service, 7264))
FROM (SELECT DISTINCT service FROM unnest(:services::text[]) AS asked (service) ORDER BY service) AS sorted
