"""Simulator of realistic service logs with labelled anomalies; importing it loads nothing, see `scenario`."""

from __future__ import annotations
