INSERT INTO rollup_pending VALUES (:service, :start_us) ON CONFLICT DO NOTHING
