"""The command `helios-agent`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

import click
import msgspec

from helios_agent import connection
from helios_agent.live import run as run_live
from helios_agent.parsers.base import Block, ParserContext, lines_of
from helios_agent.parsers.detect import by_name
from helios_agent.paths import matching, printable
from helios_agent.reader import FileReader
from helios_agent.replay import service_of
from helios_agent.settings import DEFAULT_FILE, EXAMPLE, FileSettings, Settings, StdinSettings, load
from helios_agent.sources import MetricsSource
from helios_agent.sources.checks import checked
from helios_agent.status import Status, is_running, read_status
from helios_core import log
from helios_core.clock import US_PER_S, SystemClock, rfc3339
from helios_core.errors import ConfigError, HeliosError, InputError
from helios_core.model import MAX_SERVICES_PER_CLIENT, OVERFLOW_SERVICE

_CONFIG = click.option(
    "--config", "path", type=click.Path(path_type=Path), help=f"The configuration.  [default: {DEFAULT_FILE}]"
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
_REACH_S = 5
_ASKED_AFTER_S = 1.0
_NAMES_SHOWN = 5


class _Tried(msgspec.Struct, kw_only=True):
    """What the beginning of one file gave."""

    path: str
    error: str = ""
    parser: str = ""
    service: str = ""
    lines: int = 0
    events: int = 0
    continued: int = 0
    unparsed: int = 0
    first: str | None = None
    last: str | None = None
    with_latency: int = 0
    examples: list[str] = []


class _Collected(msgspec.Struct, kw_only=True):
    """What one source of metrics gave."""

    type: str
    samples: list[tuple[str, float, dict[str, str]]] = []
    errors: list[str] = []


class _Listed(msgspec.Struct, kw_only=True):
    """One source with the files that it matches."""

    type: str
    service: str | None
    paths: tuple[str, ...] = ()
    files: list[str] = []


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Reads logs, reduces them to small feature windows, and ships these without loss.

    \b
    First steps:
      helios-agent init                 write a configuration, and edit its paths
      helios-agent test                 see how the first lines of your files are read
      helios-agent validate             see whether everything it needs is there
      helios-agent run
    """


@cli.command()
@click.option("--output", type=click.Path(path_type=Path), default=DEFAULT_FILE, show_default=True)
def init(output: Path) -> None:
    """Write a configuration to begin with."""
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(EXAMPLE)
    except FileExistsError:
        _fail(f"{output} exists: remove it, or choose another with --output")
    except OSError as error:
        _fail(f"{output} cannot be written: {error.strerror}")
    click.echo(f"{output} is written: set the paths of your logs in it, then `helios-agent test`")


@cli.command()
@_CONFIG
@click.option("--once", is_flag=True, help="Read what is there, wait until the collector has it, and end.")
def run(path: Path | None, once: bool) -> None:
    """Follow the sources until Ctrl-C or SIGTERM. What is read and not yet acknowledged is in the spool."""
    settings = _settings(path)
    log.configure(settings.agent.log_level.lower())
    try:
        status = asyncio.run(_run(settings, once=once))
    except HeliosError as error:
        _fail(str(error))
    click.echo(
        f"{status.lines:,} lines, {status.events:,} events, {status.unparsed:,} unparsed; "
        f"{status.acknowledged_batches:,} batches acknowledged, {status.spool_batches:,} in the spool",
        err=True,
    )


@cli.command()
@_CONFIG
def validate(path: Path | None) -> None:
    """See whether the configuration, its files, the state directory and the collector are there."""
    settings = _settings(path)
    faults = []
    for source in settings.opened():
        if isinstance(source, FileSettings):
            faults += _file_faults(source)
    for name, metrics in settings.metric_sources():
        try:
            metrics.health_check()
        except Exception as error:  # noqa: BLE001 -- the edge to code of others: said
            faults.append(f"source of type {name}: {_words(error)}")
    state = Path(settings.agent.state_dir)
    parent = next((folder for folder in (state, *state.absolute().parents) if folder.exists()), Path("/"))
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        faults.append(f"agent.state_dir: {state} cannot be written")
    if fault := asyncio.run(connection.fault(settings.helios, settings.secret, _REACH_S)):
        faults.append(fault)
    for fault in faults:
        click.echo(f"✗ {fault}")
    if faults:
        sys.exit(1)
    click.echo("✓ configuration, files, state directory and collector are fine")


@cli.command("test")
@_CONFIG
@_JSON
def test_sources(path: Path | None, as_json: bool) -> None:
    """Read the first block of each file and ask each source of metrics once, send nothing, say what was understood."""
    settings = _settings(path)
    tried = [
        _tried(source, Path(name))
        for source in settings.opened()
        if isinstance(source, FileSettings)
        for name in _matched(source)
    ]
    collected = [_collected(name, source) for name, source in settings.metric_sources()]
    if as_json:
        click.echo(msgspec.json.encode([*tried, *collected]))
        return
    for row in tried:
        if row.error:
            click.echo(row.error)
            continue
        click.echo(f"{row.path}: {row.parser}, service {row.service}")
        click.echo(f"  {row.lines} lines: {row.events} events, {row.continued} continued, {row.unparsed} unparsed")
        click.echo(f"  times {row.first} to {row.last}; {row.with_latency} with latency")
        for example in row.examples:
            click.echo(f"  unparsed: {example!r}")
    if not tried and any(isinstance(source, FileSettings) for source in settings.opened()):
        click.echo("no file matches: see `helios-agent sources`")
    for metrics in collected:
        click.echo(f"{metrics.type}: {len(metrics.samples)} samples in {_ASKED_AFTER_S:.0f} s")
        for name, value, labels in metrics.samples:
            shown = " ".join(f"{label}={text}" for label, text in labels.items())
            click.echo(f"  {name} {value:.6g} {shown}".rstrip())
        for error in metrics.errors:
            click.echo(f"  ✗ {error}")


@cli.command()
@_CONFIG
@_JSON
def sources(path: Path | None, as_json: bool) -> None:
    """List the sources and the files that they match now."""
    settings = _settings(path)
    listed = []
    for source in settings.opened():
        if isinstance(source, StdinSettings):
            listed.append(_Listed(type="stdin", service=source.service))
        else:
            listed.append(_Listed(type="file", service=source.service, paths=source.paths, files=_matched(source)))
    listed += [_Listed(type=name, service=None) for name, _ in settings.metric_sources()]
    if as_json:
        said = [msgspec.structs.replace(row, files=[*map(printable, row.files)]) for row in listed]
        click.echo(msgspec.json.encode(said))
        return
    for row in listed:
        click.echo(f"{row.type} {', '.join(row.paths)}".rstrip())
        for name in row.files:
            click.echo(f"  {printable(name)} ({Path(name).stat().st_size:,} bytes)")
        if row.type == "file" and not row.files:
            click.echo("  no file matches now; files that come later are found within a second")


@cli.command()
@_CONFIG
@_JSON
def status(path: Path | None, as_json: bool) -> None:
    """Say what the running agent has read, shipped and still holds."""
    try:
        found = read_status(Path(_settings(path).agent.state_dir))
    except HeliosError as error:
        _fail(str(error))
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    running = f"running (process {found.process})" if is_running(found) else "not running"
    click.echo(f"{running}, as of {found.at}")
    click.echo(
        f"  {found.lines:,} lines = {found.events:,} events + {found.continued:,} continued + "
        f"{found.unparsed:,} unparsed + {sum(found.dropped.values()):,} dropped"
    )
    for word, reasons in (("dropped", found.dropped), ("mended", found.mended)):
        if reasons:
            click.echo(f"  {word}: {_counted(reasons)}")
    if found.overflowed:
        names = [*map(repr, found.overflowed[:_NAMES_SHOWN]), *["…"] * (len(found.overflowed) > _NAMES_SHOWN)]
        click.echo(
            f"  counted under {OVERFLOW_SERVICE}: {', '.join(names)}; these services are beyond the first "
            f"{MAX_SERVICES_PER_CLIENT:,}, or their names are too long or cannot be printed"
        )
    click.echo(
        f"  {found.acknowledged_batches:,} batches acknowledged; {found.spool_batches:,} in the spool "
        f"({found.spool_bytes / 1e6:.1f} MB){', which is full: reading pauses' if found.paused else ''}"
    )
    for metrics in found.metrics:
        failed = f", {metrics.failures:,} failed" if metrics.failures else ""
        click.echo(f"  {metrics.type}: {metrics.samples:,} samples of {metrics.collections:,} collections{failed}")
        if metrics.error:
            click.echo(f"    the last time: {metrics.error}")
    if found.metrics_dropped:
        click.echo(f"  samples dropped: {_counted(found.metrics_dropped)}")
    if found.files_left_out:
        click.echo(f"  {found.files_left_out:,} files more than can be open: they take turns")
    for file in found.files:
        click.echo(f"  {file.path}: read to {file.offset:,}, {file.backlog_bytes:,} bytes behind")


async def _run(settings: Settings, *, once: bool) -> Status:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await run_live(settings, stop, once=once)


def _settings(path: Path | None) -> Settings:
    try:
        return load(path, os.environ)
    except ConfigError as error:
        _fail(str(error))


def _matched(source: FileSettings) -> list[str]:
    return [name for name in matching(source.paths, source.exclude) if Path(name).is_file()]


def _file_faults(source: FileSettings) -> list[str]:
    matched = _matched(source)
    faults = [f"{printable(name)} cannot be read" for name in matched if not os.access(name, os.R_OK)]
    if not matched:
        faults.append(f"no file matches {', '.join(source.paths)} now: set sources[].config.paths, or start its writer")
    faults += [
        f"{pattern} is a directory: name the files in it, for example {pattern.rstrip('/')}/*.log"
        for pattern in source.paths
        if Path(pattern).is_dir()
    ]
    return faults


def _tried(source: FileSettings, path: Path) -> _Tried:
    """What the first block of a file gives."""
    try:
        reader = FileReader(path)
        chunk = reader.read()
        reader.close()
    except InputError as error:
        return _Tried(path=printable(str(path)), error=printable(str(error)))
    data = chunk.data if chunk is not None else b""
    service = source.service or printable(service_of(path))
    lines = [line for line in lines_of(data[: 1 << 16]) if line.strip()]
    parser = by_name(source.parser, ParserContext(service, int(path.stat().st_mtime * US_PER_S)), lines)
    parsed = parser.parse(Block(data, SystemClock().now_us()))
    events = parsed.events
    return _Tried(
        path=printable(str(path)),
        parser=parser.name,
        service=service,
        lines=parsed.lines,
        events=len(events),
        continued=parsed.continued,
        unparsed=parsed.unparsed,
        first=rfc3339(min(events.time_us)) if len(events) else None,
        last=rfc3339(max(events.time_us)) if len(events) else None,
        with_latency=sum(value is not None for value in events.latency_us),
        examples=parsed.examples,
    )


def _collected(name: str, source: MetricsSource) -> _Collected:
    """What a source of metrics gives a second after its first look, for its rates."""
    try:
        source.initialize()
        time.sleep(_ASKED_AFTER_S)
        result = source.collect()
        good, faults = checked(result, now_us=SystemClock().now_us(), host="")
        source.close()
    except Exception as error:  # noqa: BLE001 -- the edge to code of others: said
        return _Collected(type=name, errors=[_words(error)])
    samples = [(sample.name, sample.value, sample.labels) for sample in good]
    return _Collected(type=name, samples=samples, errors=[*map(str, result.errors), *faults])


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _counted(reasons: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(reasons.items()))


def _fail(message: str) -> NoReturn:
    click.echo(f"helios-agent: {message}", err=True)
    sys.exit(1)
