"""Trouble that needs no verdict to be seen: hard faults in a row, a fleet rolled back.

Folds in the log's order; what it means is `core/policy.py`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.core.evidence import Side
from gateway.core.fields import Fields, Json

BURST_KEYS: Final = 10  # n: distinct keys of the challenger looked at
BURST_FAULTS: Final = 9  # k of n: at a sound version's error rate of .2 once in 240,000 looks
CALM_KEYS: Final = 1_000  # keys of the champion remembered: what comes beside ten of a challenger at 1 %
CALM_KEYS_MIN: Final = 10  # of the champion in the same time; fewer say nothing
CALM_RATE_MAX: Final = 0.1  # above it the champion has trouble of its own and the two-sample evidence must tell
FLEET_S: Final = 600.0
FLEET_ROUTES: Final = 3  # rolled back within that time: no chance, but something that they share…
FLEET_SHARE: Final = 0.05  # …or this part of all routes…
FLEET_ROUTES_MIN: Final = 2  # …if they are more than one
NAMED_MAX: Final = 5  # routes in one sentence


@dataclass(frozen=True, slots=True)
class FleetReading:
    """Where the breaker stands.

    Attributes:
        rolled_back: Routes, within the time that counts.
        until_s: When it closes if no other route is rolled back; None while it is closed.
    """

    rolled_back: tuple[str, ...] = ()
    until_s: float | None = None

    @property
    def reason(self) -> str:
        """Why nothing is raised by itself; empty while it may be."""
        if self.until_s is None:
            return ""
        named = ", ".join(self.rolled_back[:NAMED_MAX])
        return f"{len(self.rolled_back)} routes were rolled back within {FLEET_S / 60:.0f} minutes: {named}"

    def body(self) -> Json:
        """Return it as the monitor shows it."""
        return {"rolled_back": list(self.rolled_back), "is_suspended": self.until_s is not None, "until_s": self.until_s}

    @classmethod
    def from_body(cls, body: object) -> FleetReading:
        """Read what `body` wrote."""
        fields = Fields(body, "fleet")
        until_s = fields.number("until_s", 0.0, 1e12) if fields.has("until_s") else None
        return cls(tuple(map(str, fields.items("rolled_back", 1_000_000))), until_s)


class FleetBreaker:
    """Whether so many routes were rolled back by themselves lately that nothing is raised by itself.

    One challenger is bad by itself; several at once have something in common that no rollout can see.
    """

    def __init__(self, rolled_back: Mapping[str, float] | None = None) -> None:
        self._rolled_back = dict(rolled_back or {})  # route → when, the log's time

    def observe(self, route: str, now_s: float) -> None:
        """Take an automatic rollback."""
        self._rolled_back = {name: at_s for name, at_s in self._rolled_back.items() if now_s - at_s < FLEET_S}
        self._rolled_back[route] = max(now_s, self._rolled_back.get(route, now_s))

    def routes(self, now_s: float) -> list[str]:
        """Return the routes rolled back within the time that counts."""
        return sorted(name for name, at_s in self._rolled_back.items() if now_s - at_s < FLEET_S)

    def is_open(self, route_count: int, now_s: float) -> bool:
        """Return whether automatic increases are suspended, among so many routes."""
        count = len(self.routes(now_s))
        return count >= FLEET_ROUTES or (count >= FLEET_ROUTES_MIN and count >= FLEET_SHARE * route_count)

    def reading(self, route_count: int, now_s: float) -> FleetReading:
        """Return where it stands, among so many routes."""
        if not self.is_open(route_count, now_s):
            return FleetReading(tuple(self.routes(now_s)))
        ends_s = sorted(at_s + FLEET_S for at_s in self._rolled_back.values() if now_s - at_s < FLEET_S)
        return FleetReading(tuple(self.routes(now_s)), next(end_s for end_s in ends_s if not self.is_open(route_count, end_s)))

    def state(self) -> dict[str, float]:
        """Return everything needed to go on exactly."""
        return dict(self._rolled_back)


class BurstWatch:
    """Hard faults in a row, told by key: one caller who always fails is one key, however often it calls.

    The champion is looked at over the very time in which the challenger's last n keys came, so that trouble which both share is
    no burst, whether it has just begun or is long over.
    """

    def __init__(self) -> None:
        self._champion: dict[str, tuple[float, bool]] = {}  # by key: (time, is fault)
        self._challenger: dict[str, tuple[float, bool]] = {}
        self._faults = 0  # among the challenger's

    def observe(self, side: Side, key: str, time_s: float, *, is_fault: bool) -> None:
        """Take the assigned variant's own attempt, in the log's order; a key's last one stands."""
        if side is Side.CHAMPION:
            _remember(self._champion, key, (time_s, is_fault), CALM_KEYS)
        else:
            self._faults += is_fault - _remember(self._challenger, key, (time_s, is_fault), BURST_KEYS)

    def observe_sound(self, sides: Sequence[bool], keys: Sequence[str], times_s: Sequence[float]) -> None:
        """Take attempts of which none failed; `sides` says which are the challenger's."""
        champion = self._champion
        for is_challenger, key, time_s in zip(sides, keys, times_s, strict=True):
            if is_challenger:
                self.observe(Side.CHALLENGER, key, time_s, is_fault=False)
            else:
                champion.pop(key, None)
                champion[key] = (time_s, False)
                if len(champion) > CALM_KEYS:
                    del champion[next(iter(champion))]

    @property
    def is_far_from_burst(self) -> bool:
        """Whether it takes another fault to make one."""
        return self._faults < BURST_FAULTS

    @property
    def is_burst(self) -> bool:
        """Whether k of the challenger's last n keys failed while the champion's, in that time, did not."""
        if self._faults < BURST_FAULTS:
            return False
        times_s = [time_s for time_s, _ in self._challenger.values()]
        return self._was_calm(times_s[0], times_s[-1])

    def _was_calm(self, since_s: float, until_s: float) -> bool:
        """Return whether few of the champion's keys between two times failed, and there were enough to tell."""
        champion = self._champion
        if len(champion) == CALM_KEYS and next(iter(champion.values()))[0] > since_s:
            return False  # of a part of that time nothing is remembered
        within = [is_fault for time_s, is_fault in champion.values() if since_s <= time_s <= until_s]
        return len(within) >= CALM_KEYS_MIN and sum(within) <= CALM_RATE_MAX * len(within)

    def state(self) -> Json:
        """Return everything needed to go on exactly, as JSON."""
        sides = ((Side.CHAMPION, self._champion), (Side.CHALLENGER, self._challenger))
        return {side.value: [[key, *last] for key, last in recent.items()] for side, recent in sides}

    @classmethod
    def restored(cls, state: object) -> BurstWatch:
        """Go on from what `state` returned."""
        fields = Fields(state, "burst")
        watch = cls()
        for side in Side:
            for item in fields.items(side.value, CALM_KEYS):
                assert isinstance(item, list)
                watch.observe(side, str(item[0]), float(item[1]), is_fault=bool(item[2]))
        return watch


def _remember(recent: dict[str, tuple[float, bool]], key: str, last: tuple[float, bool], keys_max: int) -> int:
    """Let a key be the last, and return how many faults are no longer remembered for it."""
    before = recent.pop(key, None)
    recent[key] = last
    if before is None and len(recent) > keys_max:
        before = recent.pop(next(iter(recent)))
    return int(before is not None and before[1])
