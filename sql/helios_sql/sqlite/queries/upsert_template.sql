INSERT INTO templates VALUES (:service, :template_id, :level, :text, :start_us, :start_us)
ON CONFLICT (service, template_id) DO UPDATE SET
    first_seen_us = min(first_seen_us, excluded.first_seen_us),
    last_seen_us = max(last_seen_us, excluded.last_seen_us)
