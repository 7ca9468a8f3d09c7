INSERT INTO events VALUES (
    :time_us, :service, :level, :message, :latency_us, :endpoint, :trace_id, :span_id, :host, :signal,
    :attributes, :template_id, :counted, :idem_key, :content_hash
)
