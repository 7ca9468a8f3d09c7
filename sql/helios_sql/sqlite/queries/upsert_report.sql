INSERT OR REPLACE INTO reports VALUES (:incident_id, :revision, :created_us, :generator, :document, :markdown)
