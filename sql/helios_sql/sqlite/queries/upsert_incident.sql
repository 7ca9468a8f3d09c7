INSERT OR REPLACE INTO incidents
VALUES (:id, :state, :severity, :opened_us, :updated_us, :resolved_us, :document)
