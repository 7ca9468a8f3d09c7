INSERT INTO incidents VALUES (:id, :state, :severity, :opened_us, :updated_us, :resolved_us, :document)
ON CONFLICT (id) DO UPDATE SET
    state = excluded.state, severity = excluded.severity, opened_at = excluded.opened_at,
    updated_at = excluded.updated_at, resolved_at = excluded.resolved_at, document = excluded.document
