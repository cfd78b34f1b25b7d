"""Requests begin in groups: what comes while one is on its way to its answer waits until it is through, then begins together.

A run of a version, an append to the log and the processor's memory of each stage's code cost a group little more than they cost
one request. Requests that begin as they come would be spread over the stages, one or two at each, and pay for everything alone:
then half of what a crowd gets through is all that a core can do. Nothing waits for an answer that takes long, or for a clock:
turns of the event loop are counted, and a loop with little to do turns within microseconds.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

_PASS_TURNS: Final = 5  # from the beginning of a prediction that runs on the loop to its answer: begin, run, resume, log, answer
_MORE_TURNS: Final = 4  # while which others may still join those that wait: where some came during a pass, more are on their way


class Member(Protocol):
    """One that may begin."""

    loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Begin, if there is still something to begin."""


class Groups:
    """The groups of one event loop. Each is open until the loop has read what had come by the turn in which it began."""

    def __init__(self) -> None:
        self._turns_left = 0  # until the next group may begin
        self._is_open = False
        self._waiting: list[Member] = []

    def add(self, member: Member) -> None:
        """Let it begin at once, or with the next group."""
        if not self._turns_left:
            self._open(member.loop)
        if self._is_open:
            member.begin()
        else:
            self._waiting.append(member)

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_open, self._turns_left = True, _PASS_TURNS + _MORE_TURNS
        loop.call_soon(self._turn, loop)

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_open = False
        self._turns_left -= 1
        if self._turns_left == _MORE_TURNS and not self._waiting:
            self._turns_left = 0
        elif self._turns_left:
            loop.call_soon(self._turn, loop)
        else:
            waiting, self._waiting = self._waiting, []
            self._open(loop)
            for member in waiting:
                member.begin()
