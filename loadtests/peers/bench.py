"""Everything that is compared in some rows over one model: started, held still, let go for a burst each in turn, stopped."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway.core.split import SLOTS
from gateway.demo.house import House
from loadtests import load, model
from loadtests.gateway import Measured
from loadtests.peers.asked import BATCH_ROWS_MAX, NAME
from loadtests.peers.catalogue import Peer
from loadtests.peers.rows import PREDICT, RUNTIME, Row
from loadtests.peers.running import NotRunning, Running, running
from loadtests.peers.subjects import Subject, first_answer, write_subject
from loadtests.peers.table import GATEWAY
from loadtests.processes import SERVER_CORE

WARM_S = 1.0
_BATCH_ROWS = "gateway_batch_rows"


@dataclass(frozen=True, slots=True)
class Contender:
    """What is loaded in turn: `burst` takes the row and the seconds."""

    key: str
    burst: Callable[[Row, float], load.Burst]


@dataclass(slots=True)
class Bench:
    """Who takes part, and by key why somebody does not."""

    contenders: list[Contender] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)

    def measured(self, rows: Sequence[Row], *, rounds: int, seconds: float) -> dict[str, dict[str, list[load.Burst]]]:
        """Return the bursts by row and contender, one a round; forwards and backwards by turns, as a machine may drift."""
        found: dict[str, dict[str, list[load.Burst]]] = {row.name: {} for row in rows}
        for number in range(rounds):
            for row in rows:
                for contender in self._in_turn(row, number):
                    if burst := self.taken(contender, row, seconds):
                        print(
                            f"{row.name} {number + 1}: {contender.key} {burst.requests_per_s:,.0f}/s", file=sys.stderr, flush=True
                        )
                        found[row.name].setdefault(contender.key, []).append(burst)
        return {name: {key: these for key, these in bursts.items() if key not in self.reasons} for name, bursts in found.items()}

    def taken(self, contender: Contender, row: Row, seconds: float) -> load.Burst | None:
        """Load a contender for one burst; one that is gone takes no part from then on."""
        try:
            return contender.burst(row, seconds)
        except NotRunning as reason:
            self.reasons[contender.key] = str(reason)
            return None

    def _in_turn(self, row: Row, number: int) -> list[Contender]:
        here = [each for each in self.contenders if not row.only or each.key in {*row.only, GATEWAY}]
        here = [each for each in here if each.key not in self.reasons]
        return here if number % 2 == 0 else here[::-1]


@contextlib.contextmanager
def running_bench(
    gateway: Measured, subject: Subject, peers: Mapping[Peer, Path | str], rows: Sequence[Row], directory: Path
) -> Iterator[Bench]:
    """Start every peer that serves the subject and is in one of the rows, one after the other, and warm each.

    Args:
        peers: With each one's Python, or the reason why it has none.
    """
    bench, artifact = Bench(), write_subject(subject, directory)
    expected = first_answer(subject, artifact)
    only = frozenset().union(*(row.only for row in rows)) if all(row.only for row in rows) else None
    bench.contenders.append(Contender(GATEWAY, _gateway_burst(gateway, subject, artifact)))
    if subject is not Subject.SMALL:
        bench.contenders.append(_alone(gateway, subject, artifact))
    with contextlib.ExitStack() as stack:
        for peer, python in peers.items():
            if subject not in peer.subjects or (only is not None and peer.key not in only):
                continue
            if isinstance(python, str):
                bench.reasons[peer.key] = python
                continue
            print(f"{subject.value}: starting {peer.title}", file=sys.stderr, flush=True)
            try:
                started = running(peer, python, subject, artifact, expected=expected, directory=directory, cores=(SERVER_CORE,))
                bench.contenders.append(Contender(peer.key, _peer_burst(stack.enter_context(started))))
            except NotRunning as reason:
                bench.reasons[peer.key] = str(reason)
        for contender in bench.contenders:
            bench.taken(contender, rows[0], WARM_S)
        yield bench


def _peer_burst(server: Running) -> Callable[[Row, float], load.Burst]:
    peer = server.peer
    server.hold()

    def burst(row: Row, seconds: float) -> load.Burst:
        payload = peer.body(row.subject, row.rows)
        server.go_on()
        try:
            return load.closed_with(server.url, payload, route=NAME, connections=row.connections, seconds=seconds)
        except subprocess.CalledProcessError as error:
            raise NotRunning(f"takes no connections any more; {server.last_line()}") from error
        finally:
            server.hold()

    return burst


def _gateway_burst(gateway: Measured, subject: Subject, artifact: Path) -> Callable[[Row, float], load.Burst]:
    """Register the subject; once the monitor has read what an earlier burst left in the log, the gateway may be loaded."""
    name = "small" if subject is Subject.SMALL else subject.name.lower()
    payload = load.body
    if subject is not Subject.SMALL:
        tensor = register(gateway.house, name, subject, artifact)
        payload = _renamed(tensor)

    def burst(row: Row, seconds: float) -> load.Burst:
        found = load.closed_with(
            gateway.house.url, payload(rows=row.rows), route=name, connections=row.connections, seconds=seconds
        )
        gateway.caught_up_s()  # or its work would slow down whoever comes next
        return found

    return burst


def register(house: House, name: str, subject: Subject, artifact: Path) -> Mapping[str, str]:
    """Register a subject with its training sample, make its route and return name and datatype of its input."""
    reference = model.write_reference(artifact.parent / f"{name}-reference.csv")
    metadata: dict[str, object] = model.metadata()
    if subject.method:
        task = "regression" if subject.method == "predict" else "binary"
        metadata = {"runtime": "pickled", "target": {"task": task}, "columns": load.columns()}
    with house.admin() as admin:
        version = admin.register(name, artifact, metadata=metadata, reference_path=reference)
        variants = [{"name": "champion", "version": "1", "weight": SLOTS}]
        admin.put_route(name, {"model": name, "variants": variants}, if_match=0)
    return version["signature"]["inputs"][0]


def _renamed(tensor: Mapping[str, str]) -> Callable[..., bytes]:
    def payload(*, rows: int) -> bytes:
        request = json.loads(load.body(rows=rows))
        request["inputs"][0] |= {"name": tensor["name"], "datatype": tensor["datatype"]}
        return json.dumps(request).encode()

    return payload


def _alone(gateway: Measured, subject: Subject, artifact: Path) -> Contender:
    """Return the model without a server; ONNX Runtime gets as many rows a call as the gateway's batches had on average."""
    if subject.method:
        return Contender(PREDICT, lambda _, seconds: _called(artifact, 1, seconds))

    def burst(row: Row, seconds: float) -> load.Burst:
        del row
        return _called(artifact, mean_batch_rows(gateway, subject.name.lower()), seconds)

    return Contender(RUNTIME, burst)


def _called(artifact: Path, rows: int, seconds: float) -> load.Burst:
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "loadtests.peers.alone"]
    output = subprocess.run([*command, str(artifact), str(rows), str(seconds)], capture_output=True, text=True, check=True).stdout
    found = json.loads(output)
    return load.Burst(found["rows"], found["seconds"], found["p50_us"], found["p99_us"], errors=0)


def mean_batch_rows(gateway: Measured, name: str) -> int:
    """Return how many rows the gateway's runs of a model have had on average, by its own metric."""
    with gateway.house.admin() as admin:
        lines = admin.metrics().splitlines()
    total, runs = (
        sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"{_BATCH_ROWS}{end}{{") and f'"{name}"' in line)
        for end in ("_sum", "_count")
    )
    return max(1, min(BATCH_ROWS_MAX, round(total / runs))) if runs else 1
