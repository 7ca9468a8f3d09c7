"""Alerts about agents that are not heard of: as long as one is lost, nothing is known of what it read."""

from __future__ import annotations

from typing import Final

import msgspec

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
from helios_detector.watermarks import FORGOTTEN_AFTER_US, LOST_AFTER_US, Agent

_MAX_NAMED: Final = 8
_MAX_EPISODES: Final = 100  # of agents on hosts of one name
_MAX_ENDED: Final = 10_000
_MINUTE_US: Final = 60_000_000


class Said:
    """The losses that were said and not ended yet, as the topic of alerts has them: whoever said them.

    A detector that takes over from another knows so what that one has said, even where it would not have said it.
    """

    def __init__(self) -> None:
        self._open: dict[str, dict[str, Alert]] = {}  # by the agents' service, and by episode
        self._ended: dict[str, None] = {}  # the last episodes that are over

    def take(self, alert: Alert) -> None:
        """Something was said: by this detector, which reads it again later, or by another before it."""
        if alert.family is not Family.AGENT:
            return
        episodes = self._open.setdefault(alert.service, {})
        if alert.state is AlertState.RESOLVED:
            episodes.pop(alert.episode, None)
            self._ended[alert.episode] = None
            if len(self._ended) > _MAX_ENDED:
                del self._ended[next(iter(self._ended))]
        elif alert.episode not in self._ended:
            episodes[alert.episode] = alert
            if len(episodes) > _MAX_EPISODES:
                del episodes[next(iter(episodes))]
        if not episodes:
            del self._open[alert.service]

    def of(self, agent: Agent) -> list[Alert]:
        """The losses of that agent."""
        episodes = self._open.get(agent_service(agent.host), {})
        return [alert for alert in episodes.values() if alert.episode == _episode(agent, alert.onset_us)]

    def given_up(self, now_us: int) -> list[Alert]:
        """Those of a day ago, whether anything is still known of their agents or not."""
        return [
            alert
            for episodes in self._open.values()
            for alert in episodes.values()
            if now_us - alert.onset_us >= FORGOTTEN_AFTER_US
        ]


def lost(agent: Agent) -> Alert:
    """The agent was heard of last at `lost_us`. The same alert for the same agent and time."""
    service = agent_service(agent.host)
    names = [name for name in agent.services if name != service]
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
    episode, decided_us = _episode(agent, agent.lost_us), agent.lost_us + LOST_AFTER_US
    return Alert(
        id=episode,
        episode=episode,
        service=service,
        family=Family.AGENT,
        state=AlertState.FIRED,
        severity=Severity.HIGH,
        decided_us=decided_us,
        onset_us=agent.lost_us,
        seen_us=decided_us,
        horizon_us=LOST_AFTER_US,
        detectors=("agents",),
        findings=(finding,),
        features={},
        hosts=(agent.host,),
    )


def ended(loss: Alert, now_us: int) -> Alert:
    """The agent of a loss is heard of again, or is given up, at `now_us`."""
    return msgspec.structs.replace(
        loss,
        id=alert_id(loss.service, Family.AGENT, now_us, loss.episode),
        state=AlertState.RESOLVED,
        decided_us=now_us,
        seen_us=now_us,
        findings=(),
    )


def _episode(agent: Agent, heard_us: int) -> str:
    return alert_id(agent_service(agent.host), Family.AGENT, heard_us + LOST_AFTER_US, agent.id.hex())
