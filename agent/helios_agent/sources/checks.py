"""What a source gave, held against the contract before it goes anywhere: one bad sample must not take others along."""

from __future__ import annotations

from dataclasses import replace
from math import isfinite
from typing import Final

from helios_agent.sources.base import CollectionResult
from helios_core import wire
from helios_core.errors import InputError
from helios_core.model import MetricSample
from helios_core.wire.checks import check_service

_MAX_LABELS: Final = 32
_MAX_CHARS: Final = 256  # of a name, a host, and a label's key and text
_SHOWN_CHARS: Final = 120


def checked(result: CollectionResult, *, now_us: int, host: str) -> tuple[list[MetricSample], list[str]]:
    """The good samples, each with a time and a host, and why the others are none."""
    good: list[MetricSample] = []
    faults: list[str] = []
    for sample in result.samples:
        try:
            good.append(_checked(sample, now_us, host))
        except InputError as error:
            faults.append(str(error))
    return good, faults


def _checked(sample: MetricSample, now_us: int, host: str) -> MetricSample:
    """The sample as a reader of the contract will have it. What a plugin gives for one may be anything."""
    try:
        isfinite(sample.value)  # the contract would take None for 0
        stamped = replace(sample, time_us=sample.time_us or now_us, host=sample.host or host)
        made = wire.metric_from_proto(wire.metric_to_proto(stamped))
    except (AttributeError, ArithmeticError, TypeError, ValueError) as error:
        raise InputError(f"{_shown(sample)} is no sample: {error}") from error
    if made.service:
        check_service(made.service)
    metric = f"the metric {_shown(made.name)}"
    if len(made.labels) > _MAX_LABELS:
        raise InputError(f"{metric} has {len(made.labels)} labels: at most {_MAX_LABELS}")
    for text in (made.name, made.host, *made.labels, *made.labels.values()):
        if len(text) > _MAX_CHARS:
            raise InputError(f"{metric} has a text of {len(text)} characters: at most {_MAX_CHARS}")
    return made


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
