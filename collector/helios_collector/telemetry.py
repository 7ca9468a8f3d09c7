"""What the collector counts, as Prometheus metrics and for its status."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class Telemetry:
    """The collector's metrics.

    Args:
        registry: where they are registered; one of its own without it.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.batches = self._counter("helios_batches_received", "Batches of agents, by answer.", "answer")
        self.batch_bytes = self._counter("helios_batch_received_bytes", "Bytes of the batches that were accepted.")
        self.events_accepted = self._counter("helios_events_accepted", "Raw events put on the bus.", "protocol")
        self.events_rejected = self._counter("helios_events_rejected", "Raw events refused.", "protocol")
        self.requests = self._counter("helios_http_requests", "HTTP requests by path and status.", "path", "status")
        self.applied = self._counter("helios_store_records_applied", "Records of the bus that were applied.")
        self.duplicates = self._counter("helios_store_duplicates", "Slices and events that had been applied before.")
        self.conflicts = self._counter("helios_store_conflicts", "Same identity with other content: dead-lettered.")
        self.dead = self._counter("helios_dead_letters", "What could not be taken, by where it failed.", "stage")
        self.lag = Gauge("helios_store_lag_records", "Records that the writer has not read.", registry=self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def status(self) -> dict[str, int]:
        """The sums a person looks at first."""
        shown = {
            "batches": self.batches.labels("accepted"),
            "http_events": self.events_accepted.labels("http"),
            "grpc_events": self.events_accepted.labels("grpc"),
            "records_applied": self.applied,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
        }
        return {name: round(_value(counter)) for name, counter in shown.items()} | {
            "behind": round(_value(self.lag)),
        }


def _value(metric: Counter | Gauge) -> float:
    (family,) = metric.collect()
    return next((sample.value for sample in family.samples if not sample.name.endswith("_created")), 0.0)
