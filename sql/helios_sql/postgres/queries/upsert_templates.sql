INSERT INTO templates
SELECT service, template_id, min(level), min(text), min(start_time), max(start_time)
FROM unnest(:service::text[], :template_id::bigint[], :level::smallint[], :text::text[], :start_us::timestamptz[])
    AS seen (service, template_id, level, text, start_time)
GROUP BY service, template_id
ORDER BY service, template_id
ON CONFLICT (service, template_id) DO UPDATE SET
    first_seen = least(templates.first_seen, excluded.first_seen),
    last_seen = greatest(templates.last_seen, excluded.last_seen)
