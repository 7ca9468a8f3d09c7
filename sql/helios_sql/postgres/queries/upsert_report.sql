INSERT INTO reports VALUES (:incident_id, :revision, :created_us, :generator, :document, :markdown)
ON CONFLICT (incident_id, revision) DO UPDATE SET
    created_at = excluded.created_at, generator = excluded.generator, document = excluded.document,
    markdown = excluded.markdown
