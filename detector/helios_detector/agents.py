"""Alerts about agents that are not heard of: as long as one is lost, nothing is known of what it read."""

from __future__ import annotations

from typing import Final

from helios_core.alerts import (
    Alert,
    AlertState,
    Contribution,
    Family,
    Finding,
    Severity,
    alert_id,
)
from helios_core.model import agent_service
from helios_detector.watermarks import LOST_AFTER_US, Agent

_MAX_NAMED: Final = 8
_MAX_EPISODES: Final = 100  # of agents on hosts of one name
_MINUTE_US: Final = 60_000_000


class Said:
    """The losses that were said and not ended yet, as the topic of alerts has them: whoever said them.

    A detector that takes over from another knows so what that one has said, even where it would not have said it.
    """

    def __init__(self) -> None:
        self._open: dict[str, dict[str, int]] = {}  # by the agents' service: episodes, and since when

    def take(self, alert: Alert) -> None:
        """Something was said: by this detector, or by another before it."""
        if alert.family is not Family.AGENT:
            return
        if alert.state is AlertState.RESOLVED:
            self._open.get(alert.service, {}).pop(alert.episode, None)
            return
        episodes = self._open.setdefault(alert.service, {})
        episodes[alert.episode] = alert.onset_us
        if len(episodes) > _MAX_EPISODES:
            del episodes[next(iter(episodes))]

    def of(self, agent: Agent) -> list[int]:
        """When the agent had been heard of last, for each loss of it that was not ended."""
        episodes = self._open.get(agent_service(agent.host), {})
        return [heard_us for episode, heard_us in episodes.items() if episode == _episode(agent, heard_us)]


def lost(agent: Agent) -> Alert:
    """The agent was heard of last at `lost_us`. The same alert for the same agent and time."""
    names = [name for name in agent.services if name != agent_service(agent.host)]
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    finding = Finding(
        detector="agents",
        family=Family.AGENT,
        severity=Severity.HIGH,
        minutes=LOST_AFTER_US / _MINUTE_US,
        contributions=(
            Contribution(feature="services_unwatched", unit="services", actual=float(len(names)), typical=0.0),
        ),
        detail=f"nothing is known of {', '.join(names[:_MAX_NAMED]) or 'its host'}{more} since then",
    )
    return _alert(agent, AlertState.FIRED, agent.lost_us + LOST_AFTER_US, agent.lost_us, (finding,))


def found(agent: Agent, lost_us: int, now_us: int) -> Alert:
    """The agent is heard of again, or was given up, at `now_us`; it was lost since `lost_us`."""
    return _alert(agent, AlertState.RESOLVED, now_us, lost_us, ())


def _episode(agent: Agent, heard_us: int) -> str:
    return alert_id(agent_service(agent.host), Family.AGENT, heard_us + LOST_AFTER_US, agent.id.hex())


def _alert(agent: Agent, state: AlertState, decided_us: int, heard_us: int, findings: tuple[Finding, ...]) -> Alert:
    service = agent_service(agent.host)
    episode = _episode(agent, heard_us)
    return Alert(
        id=episode if state is AlertState.FIRED else alert_id(service, Family.AGENT, decided_us, episode),
        episode=episode,
        service=service,
        family=Family.AGENT,
        state=state,
        severity=Severity.HIGH,
        decided_us=decided_us,
        onset_us=heard_us,
        seen_us=decided_us,
        horizon_us=LOST_AFTER_US,
        detectors=("agents",),
        findings=findings,
        features={},
        hosts=(agent.host,),
    )
