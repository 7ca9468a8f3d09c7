INSERT INTO windows VALUES (
    :start_us, :duration_ms, :service, :host, :signal, :events, :errors, :warnings, :levels, :unparsed,
    :bytes_in, :latency_count, :latency_sum_us, :latency, :endpoints, :templates_overflow
)
