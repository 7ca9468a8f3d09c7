"""What live and replay do alike: choose a parser by the first lines, and cut what was read into batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import structlog

from helios.v1 import service_pb2
from helios_agent.cut import Cutter
from helios_agent.parsers.base import BLANK, Parser, ParserContext, lines_of
from helios_agent.parsers.detect import by_name
from helios_agent.reduction import Reduction
from helios_core.batches import SourceRange
from helios_core.clock import US_PER_S
from helios_core.model import MetricSample

_LOOK_BYTES: Final = 1 << 16  # of a source, by which its parser is chosen
_LOOK_LINES: Final = 20  # so many are enough
_CUT_WINDOWS: Final = 400  # open windows that make a cut: about 200 KiB
_HORIZON_US: Final = 300 * US_PER_S
_log = structlog.get_logger(__name__)


class ParserChoice:
    """The parser of one source: that of a name, or with `auto` the one that takes its first lines.

    Many programs say something before their log begins. So what `auto` has chosen is provisional until
    20 lines or 64 KiB were seen: each block before that adds its lines to those that choose.

    Args:
        name: of a parser, or `auto`.
        context: what the parser needs to know of the source.
        source: its name in the log.
    """

    def __init__(self, name: str, context: ParserContext, source: str) -> None:
        self._name = name
        self._context = context
        self._source = source
        self._parser: Parser | None = None
        self._settled = False
        self._lines: list[bytes] = []
        self._unseen_bytes = _LOOK_BYTES

    def parser(self, data: bytes) -> Parser:
        """The parser for the next block of the source; ConfigError for a name that none has."""
        # Half a line, with which a source may end, tells nothing that the lines before it do not.
        if self._parser is None or (not self._settled and data.endswith(b"\n")):
            self._parser = self._choose(data)
        return self._parser

    def _choose(self, data: bytes) -> Parser:
        end = data.find(b"\n", self._unseen_bytes) + 1 or len(data)
        self._unseen_bytes -= end
        self._lines += [line for line in lines_of(data[:end]) if line.strip(BLANK)]
        parser = by_name(self._name, self._context, self._lines, before=self._parser)
        if self._parser is None or parser.name != self._parser.name:
            _log.info("parser_chosen", source=self._source, service=self._context.service, parser=parser.name)
        self._settled = self._name != "auto" or len(self._lines) >= _LOOK_LINES or self._unseen_bytes <= 0
        if self._settled:
            self._lines.clear()
        return parser


class Pipeline:
    """Blocks of lines in, numbered batches out.

    Args:
        reduction: counts the lines.
        cutter: numbers the batches.
    """

    def __init__(self, reduction: Reduction, cutter: Cutter) -> None:
        self.reduction = reduction
        self._cutter = cutter

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
