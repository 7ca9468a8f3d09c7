"""OpenTelemetry's protocol: logs, spans and metrics as its SDKs and its collector send them."""
