"""Retention of the store: what is older than allowed goes, a minute of it in each transaction."""

from __future__ import annotations

from typing import Final

import structlog

from helios_core.clock import US_PER_S
from helios_core.store.base import Statement, Store

_STEP_US: Final = 60 * US_PER_S
_TABLES: Final = ("windows", "window_templates", "events", "metrics", "anomalies")
_log = structlog.get_logger(__name__)


async def prune(store: Store, before_us: int) -> None:
    """Drops what the store writer wrote of times before `before_us`; other work goes on in between.

    Raises:
        StoreUnavailable: not all of it is gone; the next call goes on.
    """
    while True:
        (row,) = await store.query("oldest_time")
        if row["time_us"] is None or row["time_us"] >= before_us:
            break
        until_us = min(row["time_us"] + _STEP_US, before_us)
        await store.transact([Statement(f"prune_{table}", {"before_us": until_us}) for table in _TABLES])
    await store.transact([Statement("prune_templates", {"before_us": before_us})])
    _log.info("store_pruned", before_us=before_us)
