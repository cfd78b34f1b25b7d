"""Hands the monitor's state over when the number of its processes changes: each route goes on exactly where it was.

The processes stopped at different places of the log. The new ones begin at the first of these, and a route that was folded
further lets its records pass until the log is where it stood. Runs before any monitor process, once; dying in between changes
nothing, because the number that counts is written last. If any state cannot be read, nothing is known of any route.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.core.partitions import LAYOUT, Partition, partitions
from gateway.core.records import Cursor
from gateway.core.sampling import Sampling
from gateway.monitor.checkpoint import body_of, bytes_of
from gateway.monitor.truth import TruthJoin
from gateway.ports.stores import CheckpointStore


def repartition(checkpoints: CheckpointStore, before: int, count: int) -> None:
    """Make the checkpoints of so many processes those of `count`.

    Raises:
        StoreFailed: the checkpoints cannot be read or written.
    """
    saved = [found for one in partitions(before) if (found := checkpoints.load(one.consumer)) is not None]
    if saved:
        cursor = _first([cursor for cursor, _ in saved]) if len(saved) == before else {}  # one that never saved read nothing
        bodies = [{**body, "cursor": stopped} for stopped, state in saved if (body := body_of(state)) is not None]
        for one in partitions(count):
            checkpoints.save(one.consumer, cursor, _state(bodies, cursor, one) if len(bodies) == len(saved) else b"")
    checkpoints.save(LAYOUT, {}, str(count).encode())
    for one in partitions(before):
        checkpoints.save(one.consumer, {}, b"")


def _first(cursors: Sequence[Cursor]) -> Cursor:
    """Return the place before which all have been; a stream that one of them has not met is to be read from its beginning."""
    shared = set.intersection(*(set(cursor) for cursor in cursors))
    return {stream: min(cursor[stream] for cursor in cursors) for stream in sorted(shared)}


def _state(bodies: Sequence[Mapping[str, Any]], cursor: Cursor, own: Partition) -> bytes:
    """Return the state of one of the new processes."""
    routes = {name: (body, state) for body in bodies for name, state in body["routes"].items()}
    mine = {name: state for name, (_, state) in routes.items() if own.has(name)}
    first = min(bodies, key=lambda body: body["now_s"])
    is_counting = own.index == 0  # what was counted over all routes is counted on by one
    body = {
        "positions": _positions(bodies, cursor),
        "now_s": first["now_s"],
        "records": sum(body["records"] - body["left"] for body in bodies) if is_counting else 0,
        "left": 0,
        "unscored": sum(body["unscored"] for body in bodies) if is_counting else 0,
        "unplaced": sum(body["unplaced"] for body in bodies) if is_counting else 0,
        "due": [name for body in bodies for name in body["due"] if name in mine],
        "fleet": {name: at_s for body in bodies for name, at_s in sorted(body["fleet"].items(), key=lambda one: one[1])},
        "sampling": _sampling([body["sampling"] for body in bodies], is_counting=is_counting),
        "truth": TruthJoin.handed_over([body["truth"] for body in bodies], own.has, is_counting=is_counting),
        "versions": list(dict.fromkeys(version for body in bodies for version in body["versions"])),
        "routes": mine,
        "elsewhere": [
            name for name in dict.fromkeys([*routes, *(n for b in bodies for n in b["elsewhere"])]) if not own.has(name)
        ],
        "ahead": [
            (body["cursor"], frozenset(name for name in body["routes"] if name in mine))
            for body in bodies
            if body["cursor"] != cursor
        ],
    }
    return bytes_of(body)


def _positions(bodies: Sequence[Mapping[str, Any]], cursor: Cursor) -> dict[str, object]:
    """Return the positions of the merge at the cursor."""
    return {
        stream: next(body["positions"][stream] for body in bodies if body["cursor"][stream] == offset)
        for stream, offset in cursor.items()
    }


def _sampling(samplings: Sequence[Sampling], *, is_counting: bool) -> Sampling:
    """Return what is known of the share that was looked at; what came in the running second is counted anew."""
    return Sampling(
        rate=min(one.rate for one in samplings),
        second=min(one.second for one in samplings),
        least=min(one.least for one in samplings),
        least_s=max(one.least_s for one in samplings),
        passed_over=sum(one.passed_over for one in samplings) if is_counting else 0,
    )
