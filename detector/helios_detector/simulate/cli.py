"""The command `helios simulate`: options, files and progress, nothing of the simulation itself."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

if TYPE_CHECKING:
    from helios_detector.simulate.scenario import Label, Scenario, Simulation

_SHOWN_LABELS = 20


class _SimulateCommand(click.Command):
    """Lists the kinds of anomaly below the options, and loads them only for that."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _require_numpy()
        from helios_detector.simulate.anomalies import KINDS

        with formatter.section("Kinds of anomaly"):
            formatter.write_dl([(kind.name, kind.summary) for kind in KINDS.values()])
        super().format_epilog(ctx, formatter)


@click.command(
    "simulate",
    cls=_SimulateCommand,
    epilog="Equal arguments with equal seeds write equal bytes, except with --live, which starts now.",
)
@click.option("--out", required=True, metavar="FILE", help="Where the lines go; - is standard output.")
@click.option("--labels", metavar="FILE", help="Where the anomalies go, as a JSON array.")
@click.option("--background", metavar="FILE", help="Where deploys, batch jobs and the like go, as a JSON array.")
@click.option("--days", type=float, default=7.0, show_default=True, help="How much event time; 0.5 is twelve hours.")
@click.option("--services", type=int, default=5, show_default=True, help="How many services.")
@click.option("--start", metavar="RFC3339", help="First instant.  [default: 2026-03-02T00:00:00Z, a Monday]")
@click.option("--seed", type=int, default=1, show_default=True, help="Another seed is another estate and week.")
@click.option(
    "--anomalies",
    type=int,
    help="How many.  [default: 40 for seven days, in proportion for others, as far as they fit]",
)
@click.option("--kinds", metavar="A,B,…", help="Which kinds of anomaly.  [default: all]")
@click.option("--rate-scale", type=float, default=1.0, show_default=True, help="Factor on all traffic.")
@click.option(
    "--learning-hours",
    type=float,
    default=26.0,
    show_default=True,
    help="Hours at the beginning without anomalies, except injected ones.",
)
@click.option(
    "--inject",
    multiple=True,
    metavar="KIND[@SERVICE]:AFTER_S:DURATION_S",
    help="One more anomaly at a stated time; may be given several times.",
)
@click.option(
    "--held-out",
    is_flag=True,
    help="Add 4 for seven days of each kind in reserve, in proportion for others: kinds that nobody "
    "who tunes detection has seen, for judging only.",
)
@click.option("--live", is_flag=True, help="Write each line when its time has come, from now on.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def simulate(
    out: str,
    labels: str | None,
    background: str | None,
    days: float,
    services: int,
    start: str | None,
    seed: int,
    anomalies: int | None,
    kinds: str | None,
    rate_scale: float,
    learning_hours: float,
    inject: tuple[str, ...],
    held_out: bool,
    live: bool,
    force: bool,
) -> None:
    """Write realistic JSON log lines of several services, with labelled anomalies.

    Normal traffic has a daily and a weekly shape, noise, growth, deploys, nightly jobs,
    lone outliers and short bursts of errors: none of them is labelled, and none should alert.
    At rate scale 1 five services write about four million lines a week.

    \b
    A week to test a detector with:
      helios simulate --out week.log --labels week.json
    Two hours with one outage, nothing else:
      helios simulate --out out.log --days 0.083 --anomalies 0 \\
        --inject total_outage@checkout:3600:600
    A week to judge it with, on kinds that it was not tuned on:
      helios simulate --out week.log --labels week.json --held-out
    A stream for an agent to follow, with errors in a minute:
      helios simulate --live --out app.log --anomalies 0 \\
        --inject error_spike:60:300
    """
    _require_numpy()
    from helios_detector.simulate.errors import SimulationError
    from helios_detector.simulate.placement import Injection
    from helios_detector.simulate.scenario import DEFAULT_START, Scenario, Simulation

    if live and start is not None:
        raise click.UsageError("--live starts now: leave out --start")
    _refuse_clashes({"--out": out, "--labels": labels, "--background": background}, force=force)
    try:
        begin = datetime.now(UTC) if live else DEFAULT_START if start is None else _instant(start)
        scenario = Scenario(
            start=begin,
            days=days,
            services=services,
            seed=seed,
            anomalies=anomalies,
            kinds=tuple(kind.strip() for kind in (kinds or "").split(",") if kind.strip()),
            rate_scale=rate_scale,
            learning_hours=learning_hours,
            injections=tuple(Injection.parse(text) for text in inject),
            held_out=held_out,
        )
        simulation = Simulation(scenario)
    except SimulationError as error:
        raise click.UsageError(str(error)) from error
    if labels is not None:
        _write_json(labels, [label.as_json() for label in simulation.labels])
    if background is not None:
        _write_json(background, [note.as_json() for note in simulation.background])
    with _opened(out) as file:
        written = _write_live(simulation, file) if live else _write_all(simulation, scenario, file)
    click.echo(f"{written:,} lines, {len(simulation.labels)} anomalies", err=True)


def _write_all(simulation: Simulation, scenario: Scenario, file: BinaryIO) -> int:
    written = 0
    with _progress(scenario.total_s) as advance:
        for chunk in simulation.chunks(None):
            file.write(chunk.data)
            written += len(chunk)
            advance((chunk.end_ms - chunk.start_ms) // 1000)
    return written


def _write_live(simulation: Simulation, file: BinaryIO) -> int:
    from helios_detector.simulate.live import write_live

    _announce(simulation.labels)
    written = 0

    def write(data: bytes) -> None:
        nonlocal written
        file.write(data)
        file.flush()
        written += data.count(b"\n")

    try:
        write_live(simulation.chunks(), write)
    except KeyboardInterrupt:
        click.echo(err=True)
    return written


def _announce(labels: Iterable[Label]) -> None:
    planned = list(labels)
    for label in planned[:_SHOWN_LABELS]:
        also = f" and {', '.join(label.also)}" if label.also else ""
        minutes = (label.end - label.start).total_seconds() / 60
        click.echo(
            f"{label.start:%Y-%m-%d %H:%M:%S}Z  {label.kind} on {label.service}{also} for {minutes:.1f} min",
            err=True,
        )
    if len(planned) > _SHOWN_LABELS:
        click.echo(f"and {len(planned) - _SHOWN_LABELS} more: --labels FILE lists all", err=True)


@contextmanager
def _progress(total_s: int) -> Iterator[Callable[[int], None]]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=total_s, label="Simulating", file=sys.stderr) as bar:
        yield bar.update


@contextmanager
def _opened(out: str) -> Iterator[BinaryIO]:
    """The output; a reader that goes away ends the command without a traceback."""
    try:
        if out == "-":
            stdout = sys.stdout.buffer
            yield stdout
            stdout.flush()
        else:
            with Path(out).open("wb") as file:
                yield file
    except BrokenPipeError:
        # The interpreter flushes standard output once more on exit: give it somewhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except OSError as error:
        raise click.ClickException(f"cannot write {out}: {error.strerror}") from error


def _write_json(path: str, rows: list[dict[str, object]]) -> None:
    text = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    try:
        Path(path).write_text(f"[\n{text}\n]\n" if rows else "[]\n", encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error


def _refuse_clashes(paths: dict[str, str | None], *, force: bool) -> None:
    """Stops before any work when a file cannot, or must not, be written."""
    seen: dict[Path, str] = {}
    for option, text in paths.items():
        if text is None or (text == "-" and option == "--out"):
            continue
        path = Path(text)
        if path.is_dir():
            raise click.UsageError(f"{option} {text} is a directory: name a file in it")
        if not path.parent.is_dir():
            raise click.UsageError(f"{option} {text}: there is no directory {path.parent}")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise click.UsageError(f"{option} {text} is not writable")
        if path.is_file() and not force:
            raise click.UsageError(f"{option} {text} exists: name another file, or overwrite it with --force")
        if path.resolve() in seen:
            raise click.UsageError(f"{option} and {seen[path.resolve()]} name the same file {text}")
        seen[path.resolve()] = option


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(
            f"--start {text!r} is no RFC 3339 time: write for example 2026-03-02T00:00:00Z"
        ) from error


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401 - only to see whether it is there
    except ModuleNotFoundError as error:
        raise click.ClickException(
            "simulate needs numpy, which is not installed: pip install 'helios-observability[detector]'"
        ) from error
