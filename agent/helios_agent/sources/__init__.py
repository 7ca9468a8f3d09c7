"""Sources of metrics: what an own one is made from, and those that come along."""

from __future__ import annotations

from helios_agent.sources import system as system
from helios_agent.sources.base import CollectionResult, MetricsSource, make_source, register_source, source_types
from helios_core.model import MetricSample

__all__ = ["CollectionResult", "MetricSample", "MetricsSource", "make_source", "register_source", "source_types"]
