INSERT INTO window_templates VALUES (:service, :template_id, :start_us, :count)
