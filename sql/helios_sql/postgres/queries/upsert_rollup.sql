INSERT INTO rollups VALUES (
    :step_s, :start_us, :service, :signal, :events, :errors, :warnings,
    ARRAY(SELECT value::bigint FROM json_array_elements_text(:levels::text::json) WITH ORDINALITY ORDER BY ordinality),
    :unparsed, :bytes_in, :latency_count, :latency_sum_us, :latency, :endpoints, :templates_overflow
)
ON CONFLICT (service, step_s, start_time, signal) DO UPDATE SET
    events = excluded.events, errors = excluded.errors, warnings = excluded.warnings, levels = excluded.levels,
    unparsed = excluded.unparsed, bytes_in = excluded.bytes_in, latency_count = excluded.latency_count,
    latency_sum_us = excluded.latency_sum_us, latency = excluded.latency, endpoints = excluded.endpoints,
    templates_overflow = excluded.templates_overflow
