"""A gateway to harm, and the report of what came of it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from adapters.logs.reading import SegmentReader
from adapters.stores.checkpoints import SqliteCheckpoints
from gateway.client import AdminClient
from gateway.core.records import Kind, Offset, PredictionRecord
from gateway.core.split import SLOTS
from gateway.demo import house
from loadtests import model
from loadtests.chaos.callers import ROUTE, Loss, Seen, Traffic
from loadtests.chaos.harmed import PROGRAM
from loadtests.processes import planes

CHAMPION = {"model": ROUTE, "variants": [{"name": "champion", "version": "1", "weight": SLOTS}]}


@dataclass(slots=True)
class Report:
    """What a scenario showed.

    Attributes:
        facts: Measured, for people.
        failures: Claims that did not hold.
    """

    name: str
    facts: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def claim(self, holds: object, sentence: str) -> None:
        """Note a claim."""
        if not holds:
            self.failures.append(sentence)

    def note_seen(self, seen: Seen) -> None:
        """Note what callers saw."""
        statuses = ", ".join(f"{count:,} × {status}" for status, count in sorted(seen.statuses().items()))
        losses = ", ".join(f"{count:,} × {loss.value}" for loss, count in Counter(loss for _, loss in seen.losses).items())
        self.facts.append(f"callers saw {statuses or 'no answer'}; {losses or 'no broken connection'}")
        self.facts.append(f"slowest good answer {seen.slowest_s():.3f} s, longest time without any {seen.longest_gap_s():.3f} s")

    def note_recovery(self, seen: Seen, harm_s: float, what: str) -> None:
        """Note how long until good answers came again."""
        first_s, rate_s = seen.first_good_s(harm_s), seen.rate_back_s(harm_s)
        self.facts.append(f"{what}: first good answer after {first_s:.3f} s, the rate back after {rate_s:.1f} s")
        self.claim(first_s < math.inf, f"{what}: no good answer came")
        self.claim(rate_s < 30, f"{what}: the rate was not back within 30 s")

    def check_log(self, data_dir: Path, seen: Seen) -> None:
        """Claim that every acknowledged prediction is in the log once."""
        counts = logged(data_dir)
        lost = sum(counts[id] == 0 for id in seen.acknowledged)
        repeated = sum(count > 1 for count in counts.values())
        self.facts.append(f"{len(seen.acknowledged):,} acknowledged: {lost} missing from the log, {repeated} in it twice")
        self.claim(lost == 0, f"{lost} acknowledged predictions are not in the log")
        self.claim(repeated == 0, f"{repeated} predictions are in the log more than once")


@dataclass(frozen=True, slots=True)
class World:
    """A running gateway with versions 1 (sound) and 2, and a route to version 1."""

    house: house.House
    admin: AdminClient

    @property
    def data_dir(self) -> Path:
        """Its data directory."""
        return self.house.data_dir

    def traffic(self, **options: object) -> Traffic:
        """Return callers of the route."""
        return Traffic(self.house.address, **options)  # type: ignore[arg-type]

    def pid(self, name: str) -> int:
        """Return a process's id once it runs."""
        return int(until(lambda: planes(self.house.process.pid).get(name), within_s=20))

    def kill(self, name: str) -> tuple[int, float]:
        """Kill a process outright; return its id and when."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid, time.monotonic()

    def until_succeeded(self, name: str, pid: int, *, within_s: float = 30.0) -> None:
        """Wait until a process has a successor."""
        until(lambda: planes(self.house.process.pid).get(name, pid) != pid, within_s=within_s)

    def deaths(self) -> Counter[int]:
        """Return how often a process ended with each exit code, after the journal; negative for a signal."""
        lines = [json.loads(line) for line in (self.data_dir / "gateway.log").read_text().splitlines() if '"code"' in line]
        return Counter(line["code"] for line in lines)

    def until_monitor_caught_up(self, *, within_s: float = 180.0) -> float:
        """Wait until the monitor has passed what is in the log now; return the seconds it took."""
        reader, start_s = SegmentReader(self.data_dir / "log"), time.monotonic()
        end = {stream: reader.end(stream) for stream in reader.streams()}
        checkpoints = SqliteCheckpoints(self.data_dir / "checkpoints.db")

        def has_passed() -> bool:
            saved = checkpoints.load("monitor")
            return saved is not None and all(saved[0].get(stream, 0) >= offset for stream, offset in end.items())

        until(has_passed, within_s=within_s)
        return time.monotonic() - start_s

    def split(self, weight: int) -> None:
        """Give version 2 a weight on the route."""
        variants = [{"name": "champion", "version": "1", "weight": SLOTS - weight}]
        if weight:
            variants.append({"name": "challenger", "version": "2", "weight": weight})
        revision = int(str(self.admin.route(ROUTE)["revision"]))
        self.admin.put_route(ROUTE, {**CHAMPION, "variants": variants}, if_match=revision, reason="chaos")


@contextlib.contextmanager
def world(
    directory: Path,
    *,
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
    is_harmed: bool = False,
    has_reference: bool = False,
) -> Iterator[World]:
    """Run a gateway on `directory`/data until the block ends; it may have been stopped before."""
    data_dir = directory / "data"
    data_dir.mkdir(exist_ok=True)
    program = PROGRAM if is_harmed else house.PROGRAM
    running = house.start_house(data_dir, workers=workers, program=program, environment=environment)
    try:
        with running.admin() as admin:
            if not list(admin.models()):
                reference = model.write_reference(directory / "reference.csv") if has_reference else None
                for seed in (7, 8):
                    artifact = model.write_model(directory / f"{seed}.onnx", seed=seed)
                    admin.register(ROUTE, artifact, metadata=model.metadata(), reference_path=reference)
                admin.put_route(ROUTE, CHAMPION, if_match=0)
            yield World(running, admin)
    finally:
        if running.process.poll() is None:
            running.stop()


def until(claim: Callable[[], object], *, within_s: float = 20.0, every_s: float = 0.005) -> object:
    """Return the first true value of `claim`.

    Raises:
        TimeoutError: there was none in time.
    """
    deadline_s = time.monotonic() + within_s
    while time.monotonic() < deadline_s:
        if value := claim():
            return value
        time.sleep(every_s)
    raise TimeoutError(f"not within {within_s} s")


def is_good(url: str) -> bool:
    """Return whether a path answers 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def logged(data_dir: Path) -> Counter[str]:
    """Return how often each prediction that somebody asked for is in the log."""
    return Counter(record.prediction_id for record in records(data_dir) if record.kind is not Kind.SHADOW)


def records(data_dir: Path) -> Iterator[PredictionRecord]:
    """Yield every prediction's record."""
    reader = SegmentReader(data_dir / "log")
    for stream in reader.streams():
        at = Offset(reader.oldest(stream))
        while (page := reader.read(stream, at)).records:
            yield from (record for _, record in page.records if isinstance(record, PredictionRecord))
            at = page.next
    reader.close()


def resident_bytes(pid: int) -> int:
    """Return a process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Return how many files a process has open."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def broken(seen: Seen) -> int:
    """Return how many requests were sent and got no whole answer."""
    return seen.lost(Loss.UNANSWERED, Loss.TORN, Loss.SILENT)
