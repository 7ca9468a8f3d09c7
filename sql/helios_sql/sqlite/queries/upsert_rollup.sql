INSERT OR REPLACE INTO rollups VALUES (
    :step_s, :start_us, :service, :signal, :events, :errors, :warnings, :levels, :unparsed, :bytes_in,
    :latency_count, :latency_sum_us, :latency, :endpoints, :templates_overflow
)
