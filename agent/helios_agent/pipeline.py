"""What live and replay do alike: choose a parser by the first lines, and cut what was read into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from helios.v1 import service_pb2
from helios_agent.cut import Cutter
from helios_agent.parsers.base import Parser, ParserContext, lines_of
from helios_agent.parsers.detect import by_name
from helios_agent.reduction import Reduction
from helios_core.batches import SourceRange
from helios_core.clock import US_PER_S
from helios_core.model import MetricSample

_LOOK_BYTES: Final = 1 << 16  # what a parser is chosen by
_CUT_WINDOWS: Final = 400  # open windows that make a cut: about 200 KiB
_HORIZON_US: Final = 300 * US_PER_S
_log = structlog.get_logger(__name__)


class Pipeline:
    """Blocks of lines in, numbered batches out.

    Args:
        reduction: counts the lines.
        cutter: numbers the batches.
    """

    def __init__(self, reduction: Reduction, cutter: Cutter) -> None:
        self.reduction = reduction
        self._cutter = cutter

    def parser(self, name: str, service: str, received_us: int, data: bytes, source: str) -> Parser:
        """The parser of that name, for `auto` the one that takes the first lines of a source.

        Args:
            service: of lines that name none.
            received_us: the time of lines that carry none.
        """
        lines = [line for line in lines_of(data[:_LOOK_BYTES]) if line.strip()]
        parser = by_name(name, ParserContext(service, received_us), lines)
        _log.info("parser_chosen", source=source, service=service, parser=parser.name)
        return parser

    @property
    def is_full(self) -> bool:
        """So much is open that a cut should be made."""
        return self.reduction.open_windows >= _CUT_WINDOWS

    def cut(
        self,
        *,
        now_us: int,
        watermark_us: int,
        sources: Sequence[SourceRange],
        metrics: Sequence[MetricSample] = (),
        own: Sequence[str] = (),
        closing: bool = False,
    ) -> list[service_pb2.SendBatchRequest]:
        """The batches of what was read since the last cut: to be spooled with the sources' positions.

        Each service of the last horizon is told of the watermark. When all are quiet one of them is, for
        that the agent lives is news, too.

        Args:
            metrics: what the metric sources gave.
            own: a service that is told of in any case.
        """
        deltas, samples = self.reduction.take()
        seen = self.reduction.last_seen_us
        alive = [name for name, seen_us in seen.items() if seen_us > watermark_us - _HORIZON_US]
        if not alive and not own and seen:
            alive = [max(seen, key=lambda name: seen[name])]
        return self._cutter.cut(
            now_us=now_us,
            deltas=deltas,
            samples=samples,
            metrics=metrics,
            services=[*alive, *own],
            sources=sources,
            watermark_us=watermark_us,
            closing=closing,
        )
