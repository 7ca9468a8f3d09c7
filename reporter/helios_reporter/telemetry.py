"""What the reporter counts, as Prometheus metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class Telemetry:
    """The reporter's metrics, registered where they are served."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.incidents = Counter("helios_incidents_opened", "Incidents by severity.", ["severity"], registry=registry)
        self.reports = Counter("helios_reports_written", "Reports, every revision.", registry=registry)
        self.claims_dropped = Counter(
            "helios_report_claims_dropped", "Claims that their evidence did not bear out.", registry=registry
        )
        self.seconds = Histogram(
            "helios_report_seconds",
            "From the incident to its report, without waiting for the store.",
            buckets=(0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0),
            registry=registry,
        )
