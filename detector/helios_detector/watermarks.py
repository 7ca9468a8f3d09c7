"""How far each service has been read: the least over its live sources. And which agents are not heard of any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

_S: Final = 1_000_000
LOST_AFTER_US: Final = 60 * _S  # six heartbeats
FORGOTTEN_AFTER_US: Final = 86_400 * _S  # an agent that is away so long was taken away
_MAX_AGENTS: Final = 10_000


@dataclass(slots=True)
class _Source:
    watermark_us: int
    heard_us: int


@dataclass(slots=True)
class _Service:
    agents: dict[bytes, _Source] = field(default_factory=dict)
    received_us: int = 0  # when raw events came last; 0 when none ever did
    watermark_us: int = 0


@dataclass(slots=True)
class Agent:
    """What is known of one agent.

    Attributes:
        heard_us: when it was heard of last, by the receiver's clock.
        lost_us: when it had been heard of last before it was lost; 0 while it is not.
        services: those that it has brought since it was heard of first.
    """

    id: bytes
    host: str
    heard_us: int
    lost_us: int = 0
    services: dict[str, None] = field(default_factory=dict)


class Watermarks:
    """Follows the sources of all services.

    All times of hearing are the receiver's. A source that is silent for `idle_after_us` does not hold
    its services back; sources without an agent follow the receiver's clock.

    Args:
        idle_after_us: None where no source can go away: then none is idle, and no agent lost.
    """

    def __init__(self, idle_after_us: int | None) -> None:
        self._idle_after_us = idle_after_us
        self._services: dict[str, _Service] = {}
        self._agents: dict[bytes, Agent] = {}

    def heard(
        self, service: str, agent: bytes, host: str, watermark_us: int, now_us: int, *, closing: bool = False
    ) -> Agent | None:
        """Takes what a slice says; returns the agent when it had been lost: it is not any more.

        Args:
            watermark_us: 0 when the slice says nothing of it.
            closing: the agent ends in good order.
        """
        state = self._services.setdefault(service, _Service())
        source = state.agents.setdefault(agent, _Source(watermark_us, now_us))
        source.watermark_us = max(source.watermark_us, watermark_us)
        source.heard_us = now_us
        if self._idle_after_us is None:
            return None
        known = self._agents.get(agent)
        if known is None:
            if len(self._agents) >= _MAX_AGENTS:
                return None
            known = self._agents[agent] = Agent(agent, host, now_us)
        if now_us - known.heard_us >= LOST_AFTER_US:  # also when nobody was there to notice it
            known.lost_us = known.heard_us
        known.heard_us = now_us
        known.services[service] = None
        was_lost = known if known.lost_us else None
        if closing:
            self._forget(known)
        return was_lost

    def _forget(self, agent: Agent) -> None:
        """It is not waited for; what it has read is in the watermarks already."""
        del self._agents[agent.id]
        for name in agent.services:
            state = self._services[name]
            gone = state.agents.pop(agent.id, None)
            if gone is not None and not state.agents:
                state.watermark_us = max(state.watermark_us, gone.watermark_us)

    def received(self, service: str, now_us: int) -> None:
        """Raw events of a service came."""
        self._services.setdefault(service, _Service()).received_us = now_us

    def of(self, service: str, now_us: int) -> int:
        """The event time up to which the service has been read; never less than before, 0 while unknown."""
        state = self._services.get(service)
        if state is None:
            return 0
        idle_us = self._idle_after_us
        live = [s.watermark_us for s in state.agents.values() if idle_us is None or now_us - s.heard_us < idle_us]
        if state.received_us:
            live.append(now_us)
        if live:
            state.watermark_us = max(state.watermark_us, min(live))
        return state.watermark_us

    def services(self) -> list[str]:
        """All that were ever heard of."""
        return list(self._services)

    def newly_lost(self, now_us: int, since_us: int) -> list[Agent]:
        """Agents that were not heard of for a minute, each once.

        Args:
            now_us: the receiver's clock.
            since_us: since when it has listened: an agent cannot be heard before.
        """
        lost = [
            agent
            for agent in self._agents.values()
            if not agent.lost_us and now_us - max(agent.heard_us, since_us) >= LOST_AFTER_US
        ]
        for agent in lost:
            agent.lost_us = agent.heard_us
        return lost

    def forgotten(self, now_us: int) -> list[Agent]:
        """Agents that were lost for a day: they are not known any more."""
        gone = [agent for agent in self._agents.values() if now_us - agent.heard_us >= FORGOTTEN_AFTER_US]
        for agent in gone:
            self._forget(agent)
        return [agent for agent in gone if agent.lost_us]
