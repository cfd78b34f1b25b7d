"""The loader: one load of a version at a time, shared by all who need it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from adapters.memory import ManualClock, MemoryBank
from gateway.core.errors import LoadFailed
from gateway.core.models import Digest, Runtime, Version
from gateway.core.tensors import Signature
from gateway.serving.loader import Loader

VERSION = Version("m", "1", Digest("0" * 64), 0, Runtime.ONNX, "", Signature((), ()))


def test_those_who_need_a_version_share_its_load():
    """Many callers, one load; one who gives up does not take it from the others."""
    loads: list[str] = []
    may_load = threading.Event()

    def warm(version: Version) -> str:
        loads.append(version.version)
        assert may_load.wait(5)
        return f"pool of {version.version}"

    async def run() -> None:
        loader = Loader(warm=warm, pool=lambda warmed: warmed, metrics=MemoryBank(), clock=ManualClock())
        callers = [asyncio.create_task(loader.load(VERSION)) for _ in range(8)]
        await asyncio.sleep(0)
        callers[0].cancel()
        may_load.set()
        assert await asyncio.gather(*callers[1:]) == ["pool of 1"] * 7
        assert loads == ["1"]
        loader.close()

    asyncio.run(run())


def test_version_that_does_not_load_is_left_alone_for_a_while():
    """After a failure the next try waits, and says the same meanwhile."""
    loads: list[str] = []

    def warm(version: Version) -> str:
        loads.append(version.version)
        raise LoadFailed("broken")

    async def run() -> None:
        clock = ManualClock()
        loader = Loader(warm=warm, pool=lambda warmed: warmed, metrics=MemoryBank(), clock=clock)
        for seconds, count in ((0.0, 1), (1.0, 1), (28.0, 1), (2.0, 2)):
            clock.move(seconds)
            with pytest.raises(LoadFailed, match="broken"):
                await loader.load(VERSION)
            assert len(loads) == count
        loader.close()

    asyncio.run(run())
