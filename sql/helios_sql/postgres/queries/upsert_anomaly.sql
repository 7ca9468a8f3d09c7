-- The id is a hash of what was decided, so that a repeat changes nothing.
INSERT INTO anomalies VALUES (:id, :service, :state, :severity, :decided_us, :document)
ON CONFLICT (id) DO NOTHING
