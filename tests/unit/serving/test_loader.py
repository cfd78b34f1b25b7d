"""The loader: one load of a version at a time, shared by all who need it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pytest

from adapters.load_lock import FileLoadLock
from adapters.memory import ManualClock, MemoryBank
from gateway.core.errors import LoadFailed, NotReady
from gateway.core.models import Digest, Runtime, Version
from gateway.core.tensors import Signature
from gateway.ports.metrics import Sample
from gateway.serving.loader import Loader
from gateway.serving.shelf import Shelf
from gateway.serving.warming import Cost, Warm

MIB = 2**20


def version_of(model: str, size_bytes: int = MIB) -> Version:
    """Return version 1 of a model."""
    return Version(model, "1", Digest("0" * 64), size_bytes, Runtime.ONNX, "", Signature((), ()))


VERSION = version_of("m")


def warmed(version: Version) -> Warm:
    """Return what a load gives; nothing here runs it."""
    return Warm(version, instance=None, cost=Cost(1.0, 0.0), memory_bytes=version.size_bytes)


@dataclass
class Held:
    """What a loader looks at of a pool: a version, and by its model what it holds in processes of its own."""

    version: Version
    held: dict[str, int]

    @property
    def outside_bytes(self) -> int:
        """Look it up."""
        return self.held[self.version.model]


def loader_of(warm: Callable[[Version], Warm], *, clock: ManualClock | None = None, shelf: Shelf | None = None) -> Loader:
    """Return a loader whose pools are the names of their models."""
    shelf = Shelf(bytes_max=8 * MIB, metrics=MemoryBank()) if shelf is None else shelf
    return Loader(
        warm=warm,
        pool=lambda warm: f"pool of {warm.version.model}",
        shelf=shelf,
        metrics=MemoryBank(),
        clock=clock or ManualClock(),
    )


def test_those_who_need_a_version_share_its_load():
    """Many callers, one load; one who gives up does not take it from the others."""
    loads: list[str] = []
    may_load = threading.Event()

    def warm(version: Version) -> Warm:
        loads.append(version.version)
        assert may_load.wait(5)
        return warmed(version)

    async def run() -> None:
        loader = loader_of(warm)
        callers = [asyncio.create_task(loader.load(VERSION)) for _ in range(8)]
        await asyncio.sleep(0)
        callers[0].cancel()
        may_load.set()
        assert await asyncio.gather(*callers[1:]) == ["pool of m"] * 7
        assert loads == ["1"]
        loader.close()

    asyncio.run(run())


def test_version_that_does_not_load_is_left_alone_for_a_while():
    """After a failure the next try waits, and says the same meanwhile."""
    loads: list[str] = []

    def warm(version: Version) -> Warm:
        loads.append(version.version)
        raise LoadFailed("broken")

    async def run() -> None:
        clock = ManualClock()
        loader = loader_of(warm, clock=clock)
        for seconds, count in ((0.0, 1), (1.0, 1), (28.0, 1), (2.0, 2)):
            clock.move(seconds)
            with pytest.raises(LoadFailed, match="broken"):
                await loader.load(VERSION)
            assert len(loads) == count
        loader.close()

    asyncio.run(run())


def test_what_routes_need_is_loaded_before_what_callers_asked_for():
    """A route's version overtakes those that callers asked for and that wait; the one under way is finished first."""
    order: list[str] = []
    may_load = threading.Event()

    def warm(version: Version) -> Warm:
        assert may_load.wait(5)
        order.append(version.model)
        return warmed(version)

    async def run() -> None:
        loader = loader_of(warm)
        asked = [asyncio.create_task(loader.load(version_of(name), is_asked=True)) for name in ("a", "b")]
        await asyncio.sleep(0)
        needed = asyncio.create_task(loader.load(version_of("needed")))
        await asyncio.sleep(0)
        may_load.set()
        await asyncio.gather(*asked, needed)
        assert order == ["a", "needed", "b"]
        loader.close()

    asyncio.run(run())


def test_loads_that_callers_asked_for_are_bounded():
    """When as many wait as may, the next caller is told to come again; a route's version is still taken."""
    may_load = threading.Event()

    def warm(version: Version) -> Warm:
        assert may_load.wait(5)
        return warmed(version)

    async def run() -> None:
        loader = loader_of(warm)
        asked = [asyncio.create_task(loader.load(version_of(f"m{number}"), is_asked=True)) for number in range(65)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        with pytest.raises(NotReady, match="64 versions are waiting"):
            await loader.load(version_of("one more"), is_asked=True)
        needed = asyncio.create_task(loader.load(version_of("needed")))
        may_load.set()
        await asyncio.gather(*asked, needed)
        loader.close()

    asyncio.run(run())


def test_version_that_finds_no_room_is_not_loaded():
    """What is kept is never evicted for a caller's version, and that one is refused before it takes memory."""
    loads: list[str] = []

    def warm(version: Version) -> Warm:
        loads.append(version.model)
        return warmed(version)

    async def run() -> None:
        shelf = Shelf(bytes_max=8 * MIB, metrics=MemoryBank())
        loader = loader_of(warm, shelf=shelf)
        shelf.keep({("kept", "1")})
        await loader.load(version_of("kept", 5 * MIB))
        await loader.load(version_of("asked", 3 * MIB), is_asked=True)
        with pytest.raises(NotReady, match="finds no room"):
            await loader.load(version_of("large", 4 * MIB), is_asked=True)
        assert set(shelf) == {("kept", "1"), ("asked", "1")}
        assert loads == ["kept", "asked"]
        loader.close()

    asyncio.run(run())


def test_workers_load_what_routes_need_one_after_the_other(tmp_path):
    """While one worker loads what every one needs, the others wait; what a caller asked for waits for none of them."""
    order: list[str] = []
    begun, may_load = {name: threading.Event() for name in ("m", "asked")}, threading.Event()

    def warm(name: str, version: Version) -> Warm:
        order.append(f"{name} begins {version.model}")
        begun[version.model].set()
        assert may_load.wait(5)
        order.append(f"{name} ends {version.model}")
        return warmed(version)

    async def run() -> None:
        loaders = [loader_of(partial(warm, name)) for name in ("first", "second")]
        for loader in loaders:
            loader.take_turns(FileLoadLock(tmp_path / "loading"))
        first = asyncio.create_task(loaders[0].load(VERSION))
        assert await asyncio.to_thread(begun["m"].wait, 5)
        second = asyncio.create_task(loaders[1].load(VERSION))
        asked = asyncio.create_task(loaders[1].load(version_of("asked"), is_asked=True))
        assert await asyncio.to_thread(begun["asked"].wait, 5)
        assert order == ["first begins m", "second begins asked"]
        may_load.set()
        await asyncio.gather(first, second, asked)
        assert order.index("first ends m") < order.index("second begins m")
        for loader in loaders:
            loader.close()

    asyncio.run(run())


def test_wait_for_another_worker_is_bounded(tmp_path):
    """A worker that takes too long is waited for no longer, and one that is gone not at all."""

    async def run() -> None:
        clock = ManualClock()
        other, own = (FileLoadLock(tmp_path / "loading") for _ in range(2))
        assert other.try_take()
        loader = loader_of(warmed, clock=clock)
        loader.take_turns(own)
        load = asyncio.create_task(loader.load(VERSION))
        waited_s = 0.0
        while not (await asyncio.wait([load], timeout=0.02))[0]:  # longer than between two looks at the lock
            clock.move(1.0)
            waited_s += 1.0
            assert waited_s < 10.0
        assert (waited_s >= 5.0, await load) == (True, "pool of m")
        assert not own.try_take(), "it went on without the lock"
        other.release()
        assert await asyncio.wait_for(loader.load(version_of("n")), 5) == "pool of n"
        assert other.try_take(), "and gave back what it took"
        loader.close()

    asyncio.run(run())


def test_processes_are_weighed_while_a_version_is_warm(monkeypatch):
    """What a pickled version's processes hold later is known to the shelf, and nobody else is asked."""
    pickled = replace(version_of("p"), runtime=Runtime.PICKLED)
    held = {"p": 2 * MIB}

    async def run() -> None:
        metrics = MemoryBank()
        shelf = Shelf(bytes_max=8 * MIB, metrics=metrics)
        shelf.put(("p", "1"), Held(pickled, held), MIB)
        shelf.put(("m", "1"), Held(VERSION, {}), MIB)
        loader = loader_of(warmed, shelf=shelf)
        weighing = asyncio.create_task(loader.weigh())
        for bytes_held in (2, 4):
            held["p"] = bytes_held * MIB
            async with asyncio.timeout(60):
                while Sample("gateway_warm_bytes", (), (2 + bytes_held) * MIB) not in metrics.samples():  # noqa: ASYNC110 - a number
                    await asyncio.sleep(0)
        weighing.cancel()
        loader.close()

    monkeypatch.setattr("gateway.serving.loader._WEIGH_S", 0.0)
    asyncio.run(run())
