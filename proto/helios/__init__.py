"""Helios: the contract of the collector, and the client SDK that speaks it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from helios.batching import Batching, ClientStats
    from helios.client import AsyncClient
    from helios.endpoint import Endpoint
    from helios.errors import (
        ClientClosed,
        CollectorFailed,
        ConfigError,
        ConnectionFailed,
        DeadlineExceeded,
        Denied,
        EventRejected,
        HeliosClientError,
        InvalidEvent,
        InvalidRequest,
        Unavailable,
    )
    from helios.event import Event, Level, Signal
    from helios.results import RejectedItem, SendResult
    from helios.retry import RetryPolicy, Status
    from helios.sync import Client
    from helios.transport import Transport
else:
    # Each name is imported when it is first asked for: whoever needs the messages of the contract
    # only (`helios.v1`) does not load gRPC.
    _HOMES = {
        "helios.batching": ("Batching", "ClientStats"),
        "helios.client": ("AsyncClient",),
        "helios.endpoint": ("Endpoint",),
        "helios.errors": (
            "ClientClosed",
            "CollectorFailed",
            "ConfigError",
            "ConnectionFailed",
            "DeadlineExceeded",
            "Denied",
            "EventRejected",
            "HeliosClientError",
            "InvalidEvent",
            "InvalidRequest",
            "Unavailable",
        ),
        "helios.event": ("Event", "Level", "Signal"),
        "helios.results": ("RejectedItem", "SendResult"),
        "helios.retry": ("RetryPolicy", "Status"),
        "helios.sync": ("Client",),
        "helios.transport": ("Transport",),
    }
    _HOME = {name: home for home, names in _HOMES.items() for name in names}

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "AsyncClient",
    "Batching",
    "Client",
    "ClientClosed",
    "ClientStats",
    "CollectorFailed",
    "ConfigError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "Denied",
    "Endpoint",
    "Event",
    "EventRejected",
    "HeliosClientError",
    "InvalidEvent",
    "InvalidRequest",
    "Level",
    "RejectedItem",
    "RetryPolicy",
    "SendResult",
    "Signal",
    "Status",
    "Transport",
    "Unavailable",
]
