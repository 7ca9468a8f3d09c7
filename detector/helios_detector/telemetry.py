"""What the detector counts, as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Telemetry:
    """The detector's metrics, registered where they are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "helios_detection_events_processed", "Events in the windows that were taken.", registry=registry
        )
        self.late = Counter(
            "helios_late_events", "Events that came after their horizons had been decided.", registry=registry
        )
        self.overflow = Counter(
            "helios_overflow_events",
            "Events of services beyond the bound, detected on under _overflow.",
            registry=registry,
        )
        self.anomalies = Counter(
            "helios_anomalies_detected", "Alerts that fired.", ["family", "severity"], registry=registry
        )
        self.latency = Histogram(
            "helios_detection_latency_seconds",
            "From a poll's records to their alerts.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
            registry=registry,
        )
        self.lag = Gauge("helios_detection_lag_records", "Records that are not yet read.", registry=registry)
