"""What the people of the demonstration do while flights go on: they roll versions out; the rest is the gateway's own doing.

The steps happen on a schedule of wall time, because the replay's months pass as fast as the machine allows. The faulty version
starts at a tenth of the aircraft and is widened if the evidence does not suffice; nobody here looks at its answers or ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.client import AdminClient, RequestFailed
from gateway.core.fields import Json
from gateway.core.split import SLOTS
from gateway.demo.training import Candidate

ROUTE: Final = "late-arrival"
SOUND, FAULTY = "2", "3"
ENDED: Final = ("LIVE", "ROLLED_BACK", "QUARANTINED")
POLL_S: Final = 0.2

# Shares of the story's time; what is left over covers the route changes themselves.
ALONE, SHADOWED, TENTH, HALF, PROMOTED, CALM = 0.10, 0.14, 0.12, 0.10, 0.08, 0.10
WIDEN_AFTER: Final = 0.10  # of the story's time at each step of the faulty version; a tenth of the aircraft suffices mostly
PATIENCE_S: Final = 60.0  # at the faulty version's last step; on a slow machine the monitor needs it to read all that was said


@dataclass(slots=True)
class Marks:
    """When things happened, wall time in seconds since the epoch; 0 until they did."""

    shadow_s: float = 0.0
    sound_s: float = 0.0
    promoted_s: float = 0.0
    faulty_s: float = 0.0
    over_s: float = 0.0
    sound: Json = field(default_factory=dict)
    faulty: Json = field(default_factory=dict)
    route_before_faulty: Json = field(default_factory=dict)


class Story:
    """The operator's side."""

    def __init__(self, admin: AdminClient, *, seconds: float, say: Callable[[str], None]) -> None:
        self.marks = Marks()
        self._admin = admin
        self._seconds = seconds
        self._say = say

    def register(self, candidates: Sequence[Candidate]) -> None:
        """Register every candidate under the route's name, in order, and make the route with the first."""
        for candidate in candidates:
            version = self._admin.register(
                ROUTE, candidate.artifact, metadata=candidate.metadata, reference_path=candidate.reference
            )
            cost = version["cost_us_per_row"]
            self._say(f"registered version {version['version']}: {candidate.metadata['description']}, {cost:.0f} µs a row")
        variants = [{"name": "champion", "version": "1", "weight": SLOTS}]
        body = {"model": ROUTE, "variants": variants, "assignment": {"header": "Gateway-Assignment-Key"}}
        self._admin.put_route(ROUTE, body, if_match=0, reason="the first version answers")

    async def play(self) -> None:
        """Do everything in order; the traffic goes on beside it."""
        self._say("version 1 answers everyone")
        await self._let_pass(ALONE)
        await self._shadow()
        await self._let_pass(SHADOWED)
        await self._roll_out_sound()
        await self._roll_out_faulty()
        await self._let_pass(CALM)

    async def _shadow(self) -> None:
        route = await self._off_loop(self._admin.route, ROUTE)
        route["shadows"] = [{"name": "candidate", "version": SOUND, "fraction": 1.0}]
        await self._off_loop(
            lambda: self._admin.put_route(
                ROUTE, route, if_match=int(str(route["revision"])), reason="see version 2 in the shadow"
            )
        )
        self.marks.shadow_s = time.time()
        self._say("version 2 runs in the shadow of every request")

    async def _roll_out_sound(self) -> None:
        id = await self._start(SOUND, [1_000, 5_000], "version 2 saw two months")
        self.marks.sound_s = time.time()
        self._say("version 2 answers a tenth of the aircraft")
        await self._let_pass(TENTH)
        await self._move(id, "advance", "nothing against it")
        self._say("version 2 answers half of the aircraft")
        await self._let_pass(HALF)
        await self._move(id, "promote", "as good or better wherever it answered")
        self.marks.promoted_s = time.time()
        self.marks.sound = await self._off_loop(self._admin.rollout, ROUTE, id)
        self._say("version 2 is champion")
        await self._let_pass(PROMOTED)

    async def _roll_out_faulty(self) -> None:
        self.marks.route_before_faulty = await self._off_loop(self._admin.route, ROUTE)
        id = await self._start(FAULTY, [1_000, 2_500, 5_000], "version 3, exported anew")
        self.marks.faulty_s = time.time()
        self._say("version 3 answers a tenth of the aircraft; its graph divides the delay by 60")
        for share in ("a quarter", "half"):
            if await self._is_over_within(id, WIDEN_AFTER * self._seconds):
                break
            if await self._move(id, "advance", "no verdict yet"):
                self._say(f"version 3 answers {share} of the aircraft")
        await self._is_over_within(id, PATIENCE_S)
        self.marks.over_s = time.time()
        self.marks.faulty = await self._off_loop(self._admin.rollout, ROUTE, id)
        self._say(f"version 3: {self.marks.faulty['state']}, {self.marks.faulty['reason']}")

    async def _start(self, version: str, steps: Sequence[int], reason: str) -> str:
        plan = {"steps": list(steps), "advances_itself": False}
        rollout = await self._off_loop(lambda: self._admin.start_rollout(ROUTE, version, plan=plan, reason=reason))
        return str(rollout["id"])

    async def _move(self, id: str, event: str, reason: str) -> bool:
        """Make an event happen; return whether the rollout's state still allowed it."""
        try:
            await self._off_loop(lambda: self._admin.move_rollout(ROUTE, id, event, reason=reason))
        except RequestFailed as refusal:
            if refusal.status != 409:
                raise
            self._say(f"{event} was refused: {refusal.message}")
            return False
        return True

    async def _is_over_within(self, id: str, seconds: float) -> bool:
        deadline_s = time.monotonic() + seconds
        while time.monotonic() < deadline_s:
            rollout = await self._off_loop(self._admin.rollout, ROUTE, id)
            if rollout["state"] in ENDED:
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _let_pass(self, share: float) -> None:
        await asyncio.sleep(share * self._seconds)

    async def _off_loop(self, call: Callable[..., Json], *arguments: str) -> Json:
        waiting: Awaitable[Json] = asyncio.to_thread(call, *arguments)
        return await waiting
