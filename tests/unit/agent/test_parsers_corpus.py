"""Real logs. Every expected number was counted with grep and awk, not with the parsers."""

from __future__ import annotations

import csv
import io
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.unit.agent.strategies import RECEIPT, check, us

from helios_agent.parsers.base import Block, ParserContext, lines_of
from helios_agent.parsers.detect import detect
from helios_core.model import Level

pytestmark = pytest.mark.corpus


class Log(NamedTuple):
    """What a log holds: every line of each is an event, so the share of parsed lines is 1."""

    path: str
    parser: str
    lines: int
    levels: dict[str, int]
    first: str
    last: str
    services: dict[str, int] = {}  # noqa: RUF012 - never changed
    latencies: int = 0
    latency_us: int = 0
    endpoints: int = 0


LOGS = (
    Log(
        "elastic/apache_access_10k.log", "access", 10_000, {"INFO": 9_780, "WARN": 217, "ERROR": 3},
        "2015-05-17T10:05:03Z", "2015-05-20T21:05:15Z", endpoints=1_498,
    ),
    Log(
        "elastic/auth.log", "plain", 7_121, {"UNSPECIFIED": 6_928, "ERROR": 189, "CRITICAL": 4},
        "2015-03-27T13:06:56Z", "2015-04-20T14:14:29Z", endpoints=1,
        services={"sshd": 4_095, "CRON": 1_264, "sudo": 557, "systemd-logind": 452, "chpasswd": 417, "systemd": 238},
    ),
    Log(
        "loghub/Apache_2k.log", "plain", 2_000, {"INFO": 1_405, "ERROR": 595},
        "2005-12-04T04:47:44Z", "2005-12-05T19:15:57Z",
    ),
    Log(
        "loghub/HDFS_2k.log", "plain", 2_000, {"INFO": 1_920, "WARN": 80},
        "2008-11-09T20:36:15Z", "2008-11-11T10:20:17Z",
    ),
    Log(
        "loghub/Hadoop_2k.log", "plain", 2_000, {"INFO": 1_040, "WARN": 808, "ERROR": 150, "CRITICAL": 2},
        "2015-10-18T18:01:47.978Z", "2015-10-18T18:10:55.202Z", latencies=1, latency_us=65_020_000,
    ),
    Log(
        "loghub/Linux_2k.log", "plain", 2_000, {"UNSPECIFIED": 1_955, "CRITICAL": 43, "WARN": 2},
        "2005-06-14T15:16:01Z", "2005-07-27T14:42:00Z",
        services={"ftpd": 916, "sshd": 677, "su": 172, "kernel": 76, "klogind": 46, "logrotate": 43},
    ),
    Log(
        "loghub/OpenSSH_2k.log", "plain", 2_000, {"UNSPECIFIED": 1_952, "ERROR": 47, "CRITICAL": 1},
        "2017-12-10T06:55:46Z", "2017-12-10T11:04:45Z", services={"sshd": 2_000},
    ),
    # 31 lines say WARNING, and 41 requests of level INFO were answered with 404; 1,017 requests took
    # 238.439563 s, and 86 other lines say how long something took: 917.08 s.
    Log(
        "loghub/OpenStack_2k.log", "plain", 2_000, {"INFO": 1_928, "WARN": 72},
        "2017-05-16T00:00:00.008Z", "2017-05-16T00:14:47.687Z",
        latencies=1_017 + 86, latency_us=238_439_563 + 917_080_000, endpoints=48,
    ),
    Log(
        "loghub/Spark_2k.log", "plain", 2_000, {"INFO": 2_000},
        "2017-06-09T20:10:40Z", "2017-06-09T20:11:11Z", latencies=37, latency_us=1_367_000,
    ),
    Log(
        "loghub/Zookeeper_2k.log", "plain", 2_000, {"INFO": 669, "WARN": 1_318, "ERROR": 13},
        "2015-07-29T17:41:44.747Z", "2015-08-10T18:12:34.004Z",
    ),
)  # fmt: skip
BLOCK_BYTES = 64 * 1024


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.path)
def test_logs(log: Log, corpus: Path) -> None:
    data = (corpus / "logs" / log.path).read_bytes()
    parser = detect(ParserContext("fallback", us(log.last)), lines_of(data)[:200])
    assert parser.name == log.parser

    lines = continued = 0
    times: list[int] = []
    levels: Counter[str] = Counter()
    services: Counter[str] = Counter()
    latencies: list[int] = []
    endpoints: set[str] = set()
    size = 0
    start = 0
    while start < len(data):
        end = data.rfind(b"\n", start, start + BLOCK_BYTES) + 1 or len(data)
        parsed = check(parser.parse(Block(data[start:end], us(log.last))), data[start:end])
        start = end
        events = parsed.events
        assert not parsed.unparsed
        assert not parsed.dropped
        assert not parsed.mended
        lines += parsed.lines
        continued += parsed.continued
        times += events.time_us
        levels.update(Level(level).name for level in events.level)
        services.update([events.service] * len(events) if isinstance(events.service, str) else events.service)
        latencies += [latency for latency in events.latency_us if latency is not None]
        endpoints |= {endpoint for endpoint in events.endpoint if endpoint}
        size += sum(events.size)

    assert (lines, continued, len(times)) == (log.lines, 0, log.lines)
    assert dict(levels) == log.levels
    assert (times[0], times[-1]) == (us(log.first), us(log.last))
    assert {name: services[name] for name in log.services} == log.services
    if not log.services:
        assert set(services) == {"fallback"}
    assert (len(latencies), sum(latencies), len(endpoints)) == (log.latencies, log.latency_us, log.endpoints)
    assert size == len(data) - data.count(b"\n")


@pytest.mark.slow
def test_the_booking_system(corpus: Path) -> None:
    """Docker's json-file of 27 containers: 94,703 lines, of which 1,756 are the beginning of a longer one."""
    csv.field_size_limit(1 << 24)
    sources: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    with tarfile.open(next(corpus.glob("nezha-*/log.tar.xz"))) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                for row in csv.DictReader(io.TextIOWrapper(file, "utf-8", newline="")):
                    sources[row["PodName"]].append((int(row["TimeUnixNano"]), row["Log"].rstrip("\n")))
    lines = events = continued = 0
    levels: Counter[str] = Counter()
    least, most = 2**63, 0
    for source in sources.values():
        data = "".join(f"{line}\n" for _, line in sorted(source, key=lambda one: one[0])).encode()
        parser = detect(ParserContext("fallback", us("2023-01-30T12:00:00Z")), lines_of(data)[:200])
        assert parser.name == "docker"
        parsed = check(parser.parse(Block(data, RECEIPT)), data)
        assert (parsed.unparsed, parsed.dropped.total(), parsed.mended.total()) == (0, 0, 0)
        lines += parsed.lines
        events += len(parsed.events)
        continued += parsed.continued
        levels.update(Level(level).name for level in parsed.events.level)
        least = min(least, *parsed.events.time_us)
        most = max(most, *parsed.events.time_us)
    assert (len(sources), lines, events, continued) == (27, 94_703, 92_947, 1_756)
    assert least // 1_000 == us("2023-01-30T11:50:53.328Z") // 1_000
    assert most // 1_000 == us("2023-01-30T14:10:49.776Z") // 1_000
    assert dict(levels) == {"INFO": 88_852, "WARN": 3_515, "ERROR": 580}
