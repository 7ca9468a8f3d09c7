"""How far each service has been read: the least over its live sources. And which agents are not heard of any more."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple

from helios_core.model import MAX_SERVICES_PER_CLIENT, OVERFLOW_SERVICE

_S: Final = 1_000_000
LOST_AFTER_US: Final = 60 * _S  # six heartbeats
FORGOTTEN_AFTER_US: Final = 86_400 * _S  # an agent that is away so long was taken away
MAX_AHEAD_US: Final = 600 * _S  # a clock that is further ahead moves no watermark
_REFRESHED_US: Final = 15 * _S  # a service that its agents still tell of is told of every ten seconds
QUIET_AFTER_US: Final = 3_600 * _S  # raw events that do not come for so long are not waited for
MAX_AGENTS: Final = 10_000
MAX_SERVICES: Final = 10_000
_MAX_NAMES_LISTED: Final = 100


class Reached(NamedTuple):
    """How far a service has been read.

    Attributes:
        watermark_us: the event time; never less than before, 0 while unknown.
        history: nothing live is known of the service yet: what was read is of the past.
        watched: all its agents are heard of, so that what does not come did not happen.
    """

    watermark_us: int
    history: bool
    watched: bool


@dataclass(slots=True)
class _Source:
    watermark_us: int
    heard_us: int


@dataclass(slots=True)
class _Service:
    agents: dict[bytes, _Source] = field(default_factory=dict)
    received_us: int = 0  # when raw events came last; 0 when none ever did
    closed_us: int = 0  # the most that an agent which has ended had read
    history_us: int = 0
    is_live: bool = False
    watermark_us: int = 0


@dataclass(slots=True)
class Agent:
    """What is known of one agent.

    Attributes:
        heard_us: when it was heard of last, by the bus's clock.
        watermark_us: up to when it has read, whichever service it said so for.
        told_us: when its own slice was read last; 0 where that is not read here, but by another detector: then that
            one says when the agent is lost.
        lost_us: when it had been heard of last before it was lost; 0 while it is heard.
        services: those that it has brought since it was heard of first.
    """

    id: bytes
    host: str
    heard_us: int
    watermark_us: int = 0
    told_us: int = 0
    lost_us: int = 0
    services: dict[str, None] = field(default_factory=dict)


class Watermarks:
    """Follows the sources of all services.

    All times of hearing are the bus's. A source that is silent for `idle_after_us` does not hold
    its services back; sources without an agent follow the bus's clock. Services beyond their bound
    are followed as one, see `under`; an agent too many moves no watermark.

    Args:
        idle_after_us: None where no source can go away: then none is idle, and no agent lost.

    Attributes:
        overflowed: the beginnings of the first names that are followed under OVERFLOW_SERVICE.
    """

    def __init__(self, idle_after_us: int | None) -> None:
        self._idle_after_us = idle_after_us
        self._services: dict[str, _Service] = {}
        self._agents: dict[bytes, Agent] = {}
        self._resumed_us = 0
        self.overflowed: list[str] = []

    def under(self, service: str, agent: bytes | None = None) -> str:
        """The name under which a service is followed: its own, or OVERFLOW_SERVICE for one too many.

        Here, where slices are read, and not where they are taken in: a slice keeps its name on the bus
        and in the store, for it is part of its identity, and a batch that is sent again after a restart
        must not come under another. Whether a slice was taken before is asked under its own name.
        """
        known = self._agents.get(agent) if agent is not None else None
        if service in self._services and (known is None or service in known.services):
            return service
        is_many = known is not None and len(known.services) >= MAX_SERVICES_PER_CLIENT
        if not is_many and (service in self._services or len(self._services) < MAX_SERVICES):
            return service
        shown = service[:80]
        if shown != OVERFLOW_SERVICE and len(self.overflowed) < _MAX_NAMES_LISTED and shown not in self.overflowed:
            self.overflowed.append(shown)
        return OVERFLOW_SERVICE

    def heard(
        self,
        service: str,
        agent: bytes,
        host: str,
        watermark_us: int,
        now_us: int,
        *,
        own: bool = False,
        closing: bool = False,
    ) -> Agent | None:
        """Takes what a slice says; returns the agent when it is its own slice: it is not lost, if it was said to be.

        Args:
            watermark_us: 0 when the slice says nothing of it.
            own: it is the slice of the agent itself.
            closing: the agent ends in good order.
        """
        state = self._service(service)
        if state is None:
            return None
        if watermark_us > now_us + MAX_AHEAD_US and self._idle_after_us is not None:
            watermark_us = 0
        known = self._agents.get(agent)
        if known is None:
            if len(self._agents) >= MAX_AGENTS:
                return None
            known = self._agents[agent] = Agent(agent, host, now_us)
        _goes_live(state)
        source = state.agents.setdefault(agent, _Source(watermark_us, now_us))
        source.watermark_us = max(source.watermark_us, watermark_us)
        source.heard_us = now_us
        known.services[service] = None
        known.watermark_us = max(known.watermark_us, watermark_us)
        known.heard_us = now_us
        known.lost_us = 0
        if own:
            known.told_us = now_us
        if closing:
            self._forget(known)
        return known if own else None

    def read_history(self, service: str, watermark_us: int) -> None:
        """Takes what a slice of the past says: it counts until something live is known of the service."""
        state = self._service(service)
        if state is not None:
            state.history_us = max(state.history_us, watermark_us)

    def received(self, service: str, now_us: int) -> None:
        """Raw events of a service came."""
        state = self._service(service)
        if state is not None:
            state.received_us = now_us
            _goes_live(state)

    def of(self, service: str, now_us: int) -> Reached:
        """How far the service has been read."""
        state = self._services.get(service)
        if state is None:
            return Reached(0, history=False, watched=True)
        if not state.is_live:
            state.watermark_us = max(state.watermark_us, state.history_us)
            return Reached(state.watermark_us, history=True, watched=True)
        idle_us = self._idle_after_us
        # An agent that lives has read all its sources so far, also those of a service that it has no news of.
        sources = [(source, self._agents[id_]) for id_, source in state.agents.items()]
        live = [
            source.watermark_us if idle_us is None else max(source.watermark_us, agent.watermark_us)
            for source, agent in sources
            if idle_us is None or self._silent_us(agent, now_us) < idle_us
        ]
        watched = len(live) == len(state.agents)
        if state.received_us:
            live.append(now_us)
        state.watermark_us = max(state.watermark_us, min(live) if live else state.closed_us)
        return Reached(state.watermark_us, history=False, watched=watched)

    def waiting(self, now_us: int, since_us: int) -> set[str]:
        """The services of which time alone may decide something between the two times.

        Those with raw events; those of an agent that has just become idle; and now and then those that
        their agents have no news of.
        """
        names = {
            name
            for name, state in self._services.items()
            if state.received_us and now_us - state.received_us < QUIET_AFTER_US
        }
        idle_us = self._idle_after_us or 0
        for agent in self._agents.values():
            if self._silent_us(agent, since_us) < idle_us <= self._silent_us(agent, now_us):
                names.update(agent.services)
        if now_us // _REFRESHED_US != since_us // _REFRESHED_US:
            names.update(
                name
                for name, state in self._services.items()
                if any(now_us - source.heard_us > _REFRESHED_US for source in state.agents.values())
            )
        return names

    def resume(self, now_us: int) -> list[str]:
        """Nobody has listened until now: no agent is idle for that.

        Returns:
            the services of raw events alone: of them the time until now is not known.
        """
        self._resumed_us = now_us
        return [name for name, state in self._services.items() if state.received_us and not state.agents]

    def step_to(self, now_us: int) -> list[str]:
        """The bus's clock was set, forward or back: no agent is silent or away for that.

        What was heard later than it is now was heard now, or the agent would be alive until then.

        Returns:
            as `resume`.
        """
        for agent in self._agents.values():
            agent.heard_us = min(agent.heard_us, now_us)
            agent.told_us = min(agent.told_us, now_us)
        for state in self._services.values():
            state.received_us = min(state.received_us, now_us)
            for source in state.agents.values():
                source.heard_us = min(source.heard_us, now_us)
        return self.resume(now_us)

    def _silent_us(self, agent: Agent, now_us: int) -> int:
        """How long it was not heard of while somebody listened."""
        return now_us - max(agent.heard_us, self._resumed_us)

    def newly_lost(self, now_us: int, since_us: int) -> list[Agent]:
        """Agents that were not heard of for a minute, each once until it is heard again, and by one detector.

        Args:
            now_us: the bus's clock.
            since_us: since when it has listened: an agent cannot be heard before.
        """
        if self._idle_after_us is None:
            return []
        lost = [
            agent
            for agent in self._agents.values()
            if not agent.lost_us and now_us - max(agent.heard_us, since_us) >= LOST_AFTER_US
        ]
        for agent in lost:
            agent.lost_us = agent.told_us or agent.heard_us
        return [agent for agent in lost if agent.told_us]

    def forget(self, now_us: int) -> None:
        """Agents that were not heard of for a day are not known any more, and hold nothing back."""
        if self._idle_after_us is not None:
            for agent in [a for a in self._agents.values() if now_us - a.heard_us >= FORGOTTEN_AFTER_US]:
                self._forget(agent)

    def _service(self, name: str) -> _Service | None:
        """None for one too many."""
        state = self._services.get(name)
        if state is None and (len(self._services) < MAX_SERVICES or name == OVERFLOW_SERVICE):
            state = self._services[name] = _Service()
        return state

    def _forget(self, agent: Agent) -> None:
        """It is not waited for any more; what it has read stays read."""
        del self._agents[agent.id]
        for name in agent.services:
            state = self._services[name]
            gone = state.agents.pop(agent.id, None)
            if gone is not None:
                state.closed_us = max(state.closed_us, gone.watermark_us)


def _goes_live(state: _Service) -> None:
    """How far the past was read, up to the end of its last minute, says nothing of what is live."""
    if not state.is_live:
        state.is_live, state.watermark_us = True, 0
