"""The fold and the merge as one piece of bytes, saved together with the cursor: a monitor that dies goes on from there exactly.

Pickle, because detectors, arrays and a million waiting predictions are saved every few seconds; it is only ever read from the
gateway's own checkpoint. A state of another format, or one that this program cannot read, is left aside: the monitor then goes
on from the cursor with nothing known.
"""

from __future__ import annotations

import gc
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from gateway.core.errors import MalformedRequest
from gateway.core.trouble import FleetBreaker
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merge
from gateway.monitor.state import RouteState
from gateway.monitor.views import RouteView, version_or_none
from gateway.monitor.watch import RolloutWatch
from gateway.ports.stores import RegistryStore

FORMAT: Final = 20
_UNREADABLE: Final = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    ImportError,
    IndexError,
    KeyError,
    MalformedRequest,
    TypeError,
    ValueError,
)  # what a state of other code, or a damaged one, may raise


def state_of(fold: Fold, merge: Merge) -> bytes:
    """Return everything needed to go on exactly."""
    body = {
        "positions": merge.positions(),
        "now_s": fold.now_s,
        "records": fold.records,
        "left": fold.left,
        "unscored": fold.unscored,
        "unplaced": fold.unplaced,
        "due": list(fold.due),
        "fleet": fold.fleet.state(),
        "sampling": fold.sampling,
        "truth": fold.truth,
        "versions": list(fold.versions),  # waiting predictions need them before a new record names them
        "routes": {name: _route(state) for name, state in fold.routes.items()},
        "elsewhere": list(fold.elsewhere),
        "ahead": fold.ahead,
    }
    return bytes_of(body)


def bytes_of(body: dict[str, Any]) -> bytes:
    """Return a state as it is saved."""
    return pickle.dumps({"format": FORMAT, **body}, protocol=pickle.HIGHEST_PROTOCOL)


def body_of(state: bytes) -> dict[str, Any] | None:
    """Return what `bytes_of` was given, or None when it is of another format or cannot be read."""
    try:
        body: dict[str, Any] = pickle.loads(state)  # noqa: S301
        return body if body["format"] == FORMAT else None
    except _UNREADABLE:
        return None


def restored(state: bytes, fold: Fold, registry: RegistryStore) -> Merge | None:
    """Fill an empty fold and return the merge, or None when the state cannot be read; then the fold stays empty.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    with _uncollected():
        return _restored(body_of(state), fold, registry)


def _restored(body: dict[str, Any] | None, fold: Fold, registry: RegistryStore) -> Merge | None:
    if body is None:
        return None
    try:
        routes = {name: _restored_route(saved, fold, registry) for name, saved in body["routes"].items()}
        versions = {(model, name): version_or_none(registry, model, name) for model, name in body["versions"]}
        merge = Merge(body["positions"])
        fold.now_s, fold.records, fold.truth = body["now_s"], body["records"], body["truth"]
        fold.left, fold.unscored, fold.unplaced = body["left"], body["unscored"], body["unplaced"]
        fold.elsewhere, fold.ahead = dict.fromkeys(body["elsewhere"]), body["ahead"]
        fold.fleet = FleetBreaker(body["fleet"])
        fold.sampling = replace(body["sampling"], events_per_s_max=fold.sampling.events_per_s_max)
        fold.versions, fold.routes, fold.due = versions, routes, dict.fromkeys(body["due"])
    except _UNREADABLE:
        return None
    return merge


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the collector from looking again and again at what is only being built, and for good at what lives on afterwards."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def _route(state: RouteState) -> dict[str, Any]:
    return {
        "view": state.view,
        "views": state.views,
        "tallies": state.tallies,
        "watch": None if state.watch is None else state.watch.state(),
        "drift": None if state.drift is None else state.drift.state(),
        "last_increase_s": state.last_increase_s,
        "decision": state.decision,
        "is_drifted": state.is_drifted,
        "incident_count": state.incident_count,
        "changes": state.changes,
        "retraining": state.retraining,
    }


def _restored_route(saved: dict[str, Any], fold: Fold, registry: RegistryStore) -> RouteState:
    view: RouteView = saved["view"]
    state = RouteState(
        view=view,
        views=saved["views"],
        tallies=saved["tallies"],
        watch=None
        if saved["watch"] is None
        else RolloutWatch.restored(saved["watch"], epoch_s=fold.epoch_s, version_of=fold.versions_of(view.model)),
        last_increase_s=saved["last_increase_s"],
        decision=saved["decision"],
        is_drifted=saved["is_drifted"],
        incident_count=saved["incident_count"],
        changes=saved["changes"],
        retraining=saved["retraining"],
    )
    if saved["drift"] is not None:
        version = version_or_none(registry, view.model, saved["drift"]["version"])
        if version is not None:
            state.drift = fold.drift_watch(version)
            state.drift.restore(saved["drift"])
    return state
