"""A gateway to measure: started, pinned, with the small model registered and its routes made; and its log seen from outside."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.core.split import SLOTS
from gateway.demo.house import House, start_house
from loadtests import load, model
from loadtests.processes import Server, pin_gateway, planes

ROUTE, SHADOWED, NAMED = "small", "small-shadowed", "small-named"
CATCH_UP_S = 300.0  # for a monitor that fell behind while the load was closed; more would be no catching up


@dataclass(frozen=True, slots=True)
class Measured:
    """A running gateway and its processes by plane or worker."""

    house: House
    planes: dict[str, int]

    def server(self) -> Server:
        """Return the one worker as something to load."""
        return Server(self.planes["w0"], self.house.url)

    def records(self) -> int:
        """Return how many records the worker has written since it first started."""
        with self.house.admin() as admin:
            lines = admin.metrics().splitlines()
        return int(sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("gateway_log_records_total")))

    def caught_up_s(self) -> float:
        """Wait until the monitor has folded what was recorded before this call; return the seconds it took.

        Raises:
            TimeoutError: it had not within `CATCH_UP_S`.
        """
        start_s = time.monotonic()
        while (waited_s := time.monotonic() - start_s) < CATCH_UP_S:
            if self._lag_s() < waited_s:  # the last record folded is younger than the call; an idle worker writes heartbeats
                return waited_s
            time.sleep(0.1)
        raise TimeoutError(f"the monitor did not catch up within {CATCH_UP_S:.0f} s")

    def _lag_s(self) -> float:
        """Return how far behind the clock the monitor was in its last turn."""
        with self.house.admin() as admin:
            lines = admin.metrics().splitlines()
        lags = (line.rpartition(" ")[2] for line in lines if line.startswith("gateway_monitor_lag_seconds"))
        return float(next(lags, math.inf))


@contextlib.contextmanager
def measured_gateway(
    directory: Path, *, workers: int = 1, is_pinned: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[Measured]:
    """Run a gateway with everything on: a route with and one without a shadow, and one to a model with many named inputs.

    Args:
        environment: More settings of it.
    """
    # In this session, because priorities of different sessions are not compared where the kernel groups tasks by session.
    house = start_house(directory, workers=workers, has_own_session=False, environment=environment)
    try:
        with house.admin() as admin:
            reference = model.write_reference(directory / "reference.csv")
            for seed in (7, 8):
                artifact = model.write_model(directory / f"small-{seed}.onnx", seed=seed)
                admin.register(ROUTE, artifact, metadata=model.metadata(), reference_path=reference)
            plain = {"model": ROUTE, "variants": [{"name": "champion", "version": "1", "weight": SLOTS}]}
            admin.put_route(ROUTE, plain, if_match=0)
            shadows = [{"name": "candidate", "version": "2", "fraction": 1.0}]
            admin.put_route(SHADOWED, {**plain, "shadows": shadows}, if_match=0)
            named = model.write_model(directory / "named.onnx", inputs=load.Inputs.NAMED)
            admin.register(NAMED, named, metadata=model.metadata(), reference_path=reference)
            admin.put_route(NAMED, {**plain, "model": NAMED}, if_match=0)
        yield Measured(house, pin_gateway(house.process.pid) if is_pinned else planes(house.process.pid))
    finally:
        code = house.stop()
        if code != 0:
            print(f"the gateway ended with code {code}", file=sys.stderr)
