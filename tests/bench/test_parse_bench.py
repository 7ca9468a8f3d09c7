"""Lines a second through parser and windows, on one core: what the agent does for every line."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from helios_agent.parsers.base import Block, ParserContext, lines_of
from helios_agent.parsers.detect import detect
from helios_core.windows import WindowBuilder

LINES = 100_000
BLOCK_BYTES = 256 * 1024


def _json_line(rng: random.Random, i: int, services: list[str]) -> str:
    when = datetime.fromtimestamp(1_767_225_600 + i * 0.002, UTC)
    return json.dumps(
        {
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "service": rng.choice(services),
            "level": rng.choice(["INFO"] * 49 + ["ERROR"]),
            "message": f"POST /api/orders/{rng.randrange(9_999)} 200 43ms",
            "latency_ms": round(rng.lognormvariate(3, 0.6), 2),
            "endpoint": f"/api/orders/{rng.randrange(500)}",
            "status": 200,
            "host": "checkout-1",
            "trace_id": f"{rng.getrandbits(128):032x}",
        },
        separators=(",", ":"),
    )


def _nginx_line(rng: random.Random, i: int) -> str:
    when = datetime.fromtimestamp(1_767_225_600 + i * 0.002, UTC)
    status = rng.choice([200] * 30 + [404, 500])
    return (
        f"10.0.{rng.randrange(99)}.{rng.randrange(99)} - - [{when:%d/%b/%Y:%H:%M:%S} +0000] "
        f'"GET /api/orders/{rng.randrange(500)}?page=2 HTTP/1.1" {status} {rng.randrange(90_000)} '
        f'"https://shop.example/cart" "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/120.0" '
        f"{rng.lognormvariate(-3, 0.6):.3f}"
    )


def _blocks(lines: list[str]) -> list[Block]:
    data = ("\n".join(lines) + "\n").encode()
    blocks, position = [], 0
    while position < len(data):
        end = data.rfind(b"\n", position, position + BLOCK_BYTES) + 1
        blocks.append(Block(data[position:end], receipt_us=0))
        position = end
    return blocks


@pytest.mark.parametrize("kind", ["json", "json, five services", "nginx"])
def test_lines_a_second(kind: str, benchmark: BenchmarkFixture) -> None:
    rng = random.Random(1)
    services = ["checkout", "cart", "payment", "search", "users"] if "five" in kind else ["checkout"]
    if kind == "nginx":
        lines = [_nginx_line(rng, i) for i in range(LINES)]
    else:
        lines = [_json_line(rng, i, services) for i in range(LINES)]
    blocks = _blocks(lines)

    def run() -> int:
        parser = detect(ParserContext("web", reference_us=0), lines_of(blocks[0].data))
        builder = WindowBuilder("host-1")
        for block in blocks:
            builder.add(parser.parse(block).events)
        return sum(delta.events for delta in builder.take())

    assert benchmark.pedantic(run, rounds=7, warmup_rounds=1) == LINES
    benchmark.extra_info["lines_per_second"] = round(LINES / benchmark.stats.stats.min)
    benchmark.extra_info["bytes_per_line"] = round(sum(map(len, lines)) / LINES)
