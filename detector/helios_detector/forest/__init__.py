"""The Isolation Forest: written as one fused graph, run in microseconds, calibrated per service."""

from __future__ import annotations
