-- Up to when the store holds windows of a service.
SELECT max(start_us + duration_ms * 1000) AS end_us FROM windows WHERE service = :service
