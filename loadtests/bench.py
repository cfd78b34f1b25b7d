"""What is measured: the gateway, the same worker without a log, and the baselines, all running at once and loaded in turn."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from loadtests import load, model
from loadtests.gateway import NAMED, ROUTE, SHADOWED, Measured, measured_gateway
from loadtests.processes import Server, baseline


@dataclass(frozen=True, slots=True)
class Contender:
    """One row of a table: a server, and what callers send it."""

    name: str
    server: Server
    route: str = ROUTE
    inputs: load.Inputs = load.Inputs.WIDE


@dataclass(frozen=True, slots=True)
class Sample:
    """One burst, with the CPU time of the server's process a request."""

    burst: load.Burst
    cpu_us: float


Samples = defaultdict[tuple[str, int], list[Sample]]  # by contender and connections, one a round


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything that runs while it is measured."""

    gateway: Measured
    raw: Contender
    fastapi: Contender
    starlette: Contender
    served: Contender
    starlette_named: Contender
    served_named: Contender
    unlogged: Contender
    shadowed: Contender

    def warm(self) -> None:
        """Load each for a second."""
        for contender in (self.raw, self.fastapi, self.starlette, self.served, self.unlogged, self.starlette_named):
            self.taken(contender, 64, 1.0)

    def taken(self, contender: Contender, connections: int, seconds: float) -> Sample:
        """Load a contender for one burst, once the monitor has read what the burst before left in the log.

        Otherwise its work for the gateway would slow down whoever comes next.
        """
        self.gateway.caught_up_s()
        server, before_s = contender.server, contender.server.cpu_s()
        burst = load.closed(server.url, route=contender.route, inputs=contender.inputs, connections=connections, seconds=seconds)
        return Sample(burst, (server.cpu_s() - before_s) / max(1, burst.requests) * 1e6)


@contextlib.contextmanager
def running_bench(directory: Path) -> Iterator[Bench]:
    """Start every server and warm it; stop them all at the end."""
    wide = str(model.write_model(directory / "small.onnx"))
    named = str(model.write_model(directory / "named.onnx", inputs=load.Inputs.NAMED))
    (directory / "data").mkdir()
    with contextlib.ExitStack() as running:
        gateway = running.enter_context(measured_gateway(directory / "data"))

        def started(module: str, argument: str) -> Server:
            return running.enter_context(baseline(module, argument))

        served, starlette = gateway.server(), started("starlette_endpoint", wide)
        starlette_named = started("starlette_named", named)
        bench = Bench(
            gateway=gateway,
            raw=Contender("empty ASGI app", started("raw", wide)),
            fastapi=Contender("FastAPI", started("fastapi_endpoint", wide)),
            starlette=Contender("Starlette by hand", starlette),
            served=Contender("gateway", served),
            starlette_named=Contender("by hand, 20 inputs", starlette_named, NAMED, load.Inputs.NAMED),
            served_named=Contender("gateway, 20 inputs", served, NAMED, load.Inputs.NAMED),
            unlogged=Contender("gateway, no log or monitor", started("unlogged", str(gateway.house.data_dir))),
            shadowed=Contender("gateway, every request shadowed", served, SHADOWED),
        )
        bench.warm()
        yield bench


def in_turn(contenders: Sequence[Contender], number: int) -> Sequence[Contender]:
    """Return the order of a round: forwards and backwards by turns, so that a drift of the machine favours nobody."""
    return contenders if number % 2 == 0 else contenders[::-1]


def middle(samples: Sequence[Sample], of: Callable[[Sample], float]) -> float:
    """Return the median over rounds."""
    return median(map(of, samples))


def requests_per_s(sample: Sample) -> float:
    """Return a burst's throughput."""
    return sample.burst.requests_per_s


def cpu_us(sample: Sample) -> float:
    """Return a burst's CPU time a request."""
    return sample.cpu_us


def ratios(samples: Sequence[Sample], others: Sequence[Sample], of: Callable[[Sample], float]) -> list[float]:
    """Return one against the other in each round: neighbours, so that a slow second of the machine hits both."""
    return [of(one) / of(other) for one, other in zip(samples, others, strict=True)]
