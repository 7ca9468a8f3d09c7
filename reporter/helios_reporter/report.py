"""The deterministic report: claims from the evidence pack alone, each with the ids of what it cites."""

from __future__ import annotations

from typing import Final

import msgspec

from helios_core.clock import rfc3339
from helios_reporter.evidence import Evidence, EvidencePack
from helios_reporter.incidents import Incident, Member

SCHEMA_VERSION: Final = 1
_MINUTE_US: Final = 60_000_000
_NAMES: Final = {
    "events_per_minute": "traffic",
    "events_per_5_min": "traffic in 5 minutes",
    "error_rate": "the error rate",
    "warning_rate": "the share of warnings",
    "p50_latency": "median latency",
    "p95_latency": "p95 latency",
    "p99_latency": "p99 latency",
    "unique_endpoints": "the number of distinct endpoints",
    "unparsed_per_minute": "the rate of unparsed lines",
    "score": "the anomaly score",
}
_MIN_TOGETHER: Final = 3
_TRAFFIC: Final = ("events_per_minute", "events_per_5_min")
_TITLES: Final = {
    "errors": "more errors",
    "latency": "slower",
    "volume": "traffic changed",
    "pattern": "a new error",
    "anomaly": "unusual behaviour",
    "agent": "not heard of",
}


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """One statement with the evidence that bears it out.

    Attributes:
        kind: observed (the evidence says so), inferred, or hypothesis.
    """

    text: str
    evidence: tuple[str, ...]
    kind: str = "observed"


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What happened when."""

    time_us: int
    text: str
    evidence: tuple[str, ...]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The account of an incident."""

    schema_version: int
    generator: str
    incident_id: str
    title: str
    severity: str
    services: tuple[str, ...]
    started_us: int
    ended_us: int | None
    summary: tuple[Claim, ...]
    impact: tuple[Claim, ...]
    timeline: tuple[TimelineEntry, ...]
    causes: tuple[Claim, ...]
    actions_immediate: tuple[Claim, ...]
    actions_short_term: tuple[Claim, ...]
    actions_long_term: tuple[Claim, ...]
    checked_and_normal: tuple[Claim, ...]
    unknowns: tuple[str, ...]
    truncation: tuple[str, ...]


def write(incident: Incident, pack: EvidencePack) -> Report:
    """The report of an incident, from its evidence."""
    services = incident.services
    first = min(incident.members, key=lambda member: member.onset_us)
    title = f"{first.service}: {', '.join(dict.fromkeys(map(_title, incident.members)))}"
    together = _silent_together(incident)
    if together is not None:
        title = f"{len(together)} services silent at once ({', '.join(together[:3])}, …)"
    elif len(services) > 1:
        title += f" (with {', '.join(services[1:4])}{', …' if len(services) > 4 else ''})"
    return Report(
        schema_version=SCHEMA_VERSION,
        generator="rules",
        incident_id=incident.id,
        title=title,
        severity=incident.severity.value,
        services=tuple(services),
        started_us=incident.onset_us,
        ended_us=incident.resolved_us,
        summary=_summary(incident, pack, services),
        impact=() if together is not None else _impact(pack, services),
        timeline=_timeline(incident, pack),
        causes=_causes(incident, pack),
        actions_immediate=_immediate(incident, pack),
        actions_short_term=_short_term(pack),
        actions_long_term=(),
        checked_and_normal=_normal(pack, measures=together is None),
        unknowns=_unknowns(pack),
        truncation=tuple(pack.truncation),
    )


def number(value: float, unit: str) -> str:
    """A value as a person reads it: shares in per cent, three significant digits, the unit behind."""
    if unit == "share":
        return f"{value * 100:.3g} %"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}" if unit else text


def changed(item: Evidence) -> str:
    """One measure as a sentence: what it was and what it is, with a word of direction that code chose."""
    name = _NAMES.get(item.name, item.name.replace("_", " "))
    if item.value is None:
        return f"{name} is missing"
    value = number(item.value, item.unit)
    if item.baseline is None:
        return f"{name} is {value}"
    before = number(item.baseline, item.unit)
    if value == before:
        return f"{name} stayed at {value}"
    verb = "rose" if item.value > item.baseline else "fell"
    return f"{name} {verb} from {before} to {value}"


def _quoted(text: str) -> str:
    """Text of a log between the only two “ and ” of it: what stands there is no word of the report."""
    return "“" + text.replace("“", '"').replace("”", '"') + "”"


def _cited(pack: EvidencePack, service: str) -> tuple[str, ...]:
    """What says that something is wrong with a service."""
    return tuple(item.id for item in (pack.of("detector", service) or pack.of("metric", service))[:2])


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _title(member: Member) -> str:
    """What happened, in a few words."""
    findings = [finding for alert in member.alerts for finding in alert.findings]
    if any(finding.detector == "silence" for finding in findings):
        return "silent"
    return _TITLES[member.family]


def _silent_together(incident: Incident) -> list[str] | None:
    """The services of an incident in which three or more fell silent, and nothing else happened."""
    if all(_title(member) == "silent" for member in incident.members) and len(incident.services) >= _MIN_TOGETHER:
        return incident.services
    return None


def _summary(incident: Incident, pack: EvidencePack, services: list[str]) -> tuple[Claim, ...]:
    claims: list[Claim] = []
    if (together := _silent_together(incident)) is not None:
        text = (
            f"{len(together)} services fell silent in the same moment, {rfc3339(incident.onset_us, digits=0)}: "
            f"{', '.join(together)}; their host or the way of their logs stopped, rather than each of them"
        )
        return (Claim(text=_sentence(text), evidence=tuple(e.id for e in pack.of("detector")), kind="inferred"),)
    for service in services:
        for item in pack.of("detector", service)[:3]:
            if item.unit == "services":
                text = f"{service} is not heard of: {item.name}"
            elif item.unit == "events" and item.name not in _NAMES:
                text = f"on {service} an error is logged that was not logged before: {_quoted(item.name)}"
            else:
                text = f"on {service} {changed(item)} ({_normally(item)})"
            claim = Claim(text=_sentence(text), evidence=(item.id,))
            if claim.text not in {known.text for known in claims}:
                claims.append(claim)
    return tuple(claims)


def _normally(item: Evidence) -> str:
    minutes = (item.to_us - item.from_us) / _MINUTE_US
    span = f"over {minutes:.0f} min" if minutes >= 1.5 else "over the last minute"
    if minutes < 0.5:
        span = f"over the last {minutes * 60:.0f} s"
    return f"{span}, against what is normal for this service at this time of day"


def _impact(pack: EvidencePack, services: list[str]) -> tuple[Claim, ...]:
    return tuple(
        Claim(text=_sentence(f"on {service} {changed(item)} against the half hour before"), evidence=(item.id,))
        for service in services
        for item in pack.of("metric", service)
        if item.notable
    )


def _timeline(incident: Incident, pack: EvidencePack) -> tuple[TimelineEntry, ...]:
    entries = []
    for member in incident.members:
        ids = tuple(item.id for item in pack.of("detector", member.service))[:3]
        entries.append(
            TimelineEntry(
                time_us=member.onset_us,
                text=f"first signs on {member.service} ({_title(member)})",
                evidence=ids,
            )
        )
        entries += [
            TimelineEntry(
                time_us=alert.decided_us,
                text=f"alert on {alert.service}: {alert.family.value} {alert.state.value}, {alert.severity.value}"
                f" ({', '.join(alert.detectors) or 'normal again'})",
                evidence=ids,
            )
            for alert in member.alerts
        ]
    return tuple(sorted(entries, key=lambda entry: entry.time_us))


def _causes(incident: Incident, pack: EvidencePack) -> tuple[Claim, ...]:
    """What may have caused it: only hypotheses, for nothing here observes a cause."""
    causes = []
    services = incident.services
    if _silent_together(incident) is not None:
        return ()
    if len(services) > 1:
        links = sorted({member.reason for member in incident.members if member.is_link})
        text = f"it began on {services[0]}, {', '.join(services[1:])} followed; they are linked by {'; '.join(links)}"
        causes.append(Claim(text=_sentence(text), evidence=_cited(pack, services[0]), kind="inferred"))
    fresh = [item for item in pack.of("log_template") if item.baseline is None]
    for item in fresh[:3]:
        rate = number(item.value or 0, item.unit)
        text = f"on {item.service} a new message appeared, {_quoted(item.name)}, {rate}: look here first"
        causes.append(Claim(text=_sentence(text), evidence=(item.id,), kind="hypothesis"))
    if not fresh:
        for item in [item for item in pack.of("log_template") if item.baseline is not None][:2]:
            text = (
                f"on {item.service} {_quoted(item.name)} comes more often: {number(item.value or 0, item.unit)}, "
                f"before {number(item.baseline or 0, item.unit)}"
            )
            causes.append(Claim(text=_sentence(text), evidence=(item.id,), kind="hypothesis"))
    return tuple(causes)


def _immediate(incident: Incident, pack: EvidencePack) -> tuple[Claim, ...]:
    if (together := _silent_together(incident)) is not None:
        since = rfc3339(incident.onset_us, digits=0)
        text = f"See whether the host of these services, or what ships their logs, stopped at {since}."
        return (Claim(text=text, evidence=_cited(pack, together[0]), kind="inferred"),)
    where = {member.family: member.service for member in reversed(incident.members)}  # the first of each family
    actions: list[tuple[str, str]] = []
    if (service := where.get("errors", where.get("pattern"))) is not None:
        since = rfc3339(incident.onset_us, digits=0)
        actions.append((service, f"See what was deployed or changed on {service} shortly before {since}"))
    if (service := where.get("latency")) is not None:
        actions.append((service, f"Look at the load and the dependencies of {service}: it answers, but more slowly"))
    if (service := where.get("volume")) is not None:
        traffic = [item for item in pack.of("detector", service) if item.name in _TRAFFIC]
        if any((item.value or 0) > (item.baseline or 0) for item in traffic):
            text = f"Find out who sends {service} the additional traffic, and whether it has room for it"
        else:
            text = f"See whether the callers of {service} reach it, and whether all its hosts are up"
        actions.append((service, text))
    if (service := where.get("agent")) is not None:
        actions.append((service, f"See whether the host of {service} is up, and whether helios-agent runs there"))
    if not actions:
        service = incident.services[0]
        text = f"Compare the features of {service} listed above with what it does at this time on other days"
        actions.append((service, text))
    return tuple(Claim(text=f"{text}.", evidence=_cited(pack, service), kind="inferred") for service, text in actions)


def _short_term(pack: EvidencePack) -> tuple[Claim, ...]:
    samples = pack.of("log_sample")[:3]
    return tuple(
        Claim(text=f"Follow this event on {item.service}: {_quoted(item.name)}.", evidence=(item.id,), kind="inferred")
        for item in samples
    )


def _normal(pack: EvidencePack, *, measures: bool) -> tuple[Claim, ...]:
    """What was looked at and is normal; without `measures` only the services that did not alert."""
    claims = [
        Claim(text=_sentence(f"on {item.service} {changed(item)}, which is no notable change"), evidence=(item.id,))
        for item in pack.of("metric")
        if measures and not item.notable
    ]
    quiet = [item for item in pack.of("neighbour") if not item.notable]
    if quiet:
        names = ", ".join(item.service for item in quiet[:10])
        claims.append(
            Claim(text=f"No alert on {names} within 10 minutes.", evidence=tuple(item.id for item in quiet[:10]))
        )
    return tuple(claims)


def _unknowns(pack: EvidencePack) -> tuple[str, ...]:
    unknowns = ["Deployments and cloud events are not among the evidence: none are collected."]
    if not pack.of("metric") or all(item.unit != "ms" for item in pack.of("metric")):
        unknowns.append("The events carry no latency.")
    ongoing = [item for item in pack.of("neighbour") if item.notable]
    if ongoing:
        unknowns.append(
            "Also alerted, without a known link: "
            + ", ".join(f"{item.service} [{item.id}]" for item in ongoing[:10])
            + "."
        )
    return tuple(unknowns)
