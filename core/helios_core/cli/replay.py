"""The command `helios replay`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import msgspec

from helios_core.cli.fail import fail
from helios_core.cli.progress import shown
from helios_core.errors import HeliosError
from helios_core.replay import Files, Replayed, replay
from helios_core.service import Progress


@click.command("replay")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("helios-replay"),
    show_default=True,
    help="Where everything is kept. Files that were replayed into it before go on where they ended.",
)
@click.option("--labels", type=click.Path(path_type=Path), help="Known anomalies, to judge the alerts by (JSON).")
@click.option(
    "--parser",
    default="auto",
    show_default=True,
    help="auto, json, docker, access, logfmt or plain (also syslog files).",
)
@click.option("--service", help="Service of lines that name none. Without it: the file's name.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def replay_command(
    files: tuple[Path, ...], data_dir: Path, labels: Path | None, parser: str, service: str | None, as_json: bool
) -> None:
    """Run the whole chain on old logs, in event time and as fast as it goes.

    FILES are logs of any supported form, also .gz, .xz and .bz2. They are merged by time. Learning
    happens as it would have live: rules and baseline first, a forest after a day of a service's
    history, and nothing is ever scored by a model that has seen it.

    \b
    Example:
      helios simulate --out week.jsonl --labels week.json --days 7
      helios replay week.jsonl --labels week.json --data-dir week
    """
    progress = Progress()
    try:
        read = Files(files, parser, service)
        result = asyncio.run(shown(progress, replay(read, data_dir, labels=labels, progress=progress)))
    except (HeliosError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on where it ended", code=130)
    if as_json:
        click.echo(msgspec.json.encode(_summary(result)))
    else:
        _print_summary(result, data_dir)


def _summary(result: Replayed) -> dict[str, Any]:
    counts, totals = result.counts, result.totals
    return {
        "lines": counts.lines,
        "bytes": counts.bytes,
        "unparsed": counts.unparsed,
        "dropped": dict(counts.dropped),
        "mended": dict(counts.mended),
        "events": totals["events"],
        "windows": totals["windows"],
        "alerts": sum(alert.state != "resolved" for alert in result.detector.alerts),
        "incidents": totals["incidents"],
        "seconds": round(result.seconds, 3),
        "learning": _learning(result),
        "evaluation": result.detector.evaluation,
    }


def _learning(result: Replayed) -> list[str]:
    """Services whose history is too short for a forest."""
    detected = result.detector
    return sorted(name for name, (_, last) in detected.span_us.items() if last < detected.learned_us[name])


def _print_summary(result: Replayed, data_dir: Path) -> None:
    counts, summary = result.counts, _summary(result)
    per_second = counts.lines / max(result.seconds, 1e-9)
    click.echo(
        f"{counts.lines:,} lines ({counts.bytes / 1e6:,.1f} MB) in {result.seconds:.1f} s, {per_second:,.0f} lines/s; "
        f"{counts.unparsed:,} unparsed"
    )
    for word, reasons in (("dropped", counts.dropped), ("mended", counts.mended)):
        if reasons:
            click.echo(f"  {word}: " + ", ".join(f"{number:,} {reason}" for reason, number in sorted(reasons.items())))
    click.echo(
        f"in the store: {summary['events']:,} events in {summary['windows']:,} windows, "
        f"{summary['incidents']:,} incidents; {summary['alerts']:,} alerts"
    )
    if summary["learning"]:
        names = summary["learning"]
        click.echo(
            f"still learning (less than a day of history; rules and baseline alone decide): {', '.join(names[:8])}"
            + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        )
    if summary["incidents"]:
        click.echo(f"reports: {data_dir / 'reports'}")
    if summary["evaluation"] is not None:
        _print_evaluation(summary["evaluation"])


def _print_evaluation(found: dict[str, Any]) -> None:
    def share(name: str) -> str:
        value, interval = found[name], found[f"{name}_interval"]
        if value is None:
            return "-"
        return f"{value:.1%} ({interval[0]:.1%} to {interval[1]:.1%})"

    rate = found["false_alarms_per_service_day"]
    click.echo(f"judged by {found['labels']} labels:")
    click.echo(f"  precision {share('precision')}, recall {share('recall')}")
    click.echo(
        f"  false alarms {found['false_alarms']}"
        + (f", {rate:.3f} per service-day" if rate is not None else "")
        + f"; while learning {found['false_alarms_while_learning']}"
    )
    if found["median_delay_s"] is not None:
        click.echo(f"  median delay {found['median_delay_s']:.0f} s")
    for name, kind in found["by_kind"].items():
        delay = "" if kind["median_delay_s"] is None else f", {kind['median_delay_s']:.0f} s"
        click.echo(f"    {name}: {kind['found']} of {kind['labels']}{delay}")
    for name, chance in found["by_chance"].items():
        click.echo(
            f"  as many alarms {'at random' if name == 'random' else 'at even distances'}: "
            + ", ".join(f"{what} {'-' if value is None else format(value, '.1%')}" for what, value in chance.items())
        )
