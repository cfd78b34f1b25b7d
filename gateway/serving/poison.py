"""What one worker does about inputs that end processes (see `core/poison.py`): notes them, refuses them, tells the others.

Nothing is computed for a version that no process died of: a pool looks into `watches`, and finds nothing there.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import numpy as np

from gateway.core.errors import PoisonousInput, ProcessDied, StoreFailed
from gateway.core.poison import DeadRun, Standing, Suspicions, after_death, after_survival
from gateway.core.tensors import Array, Tensor
from gateway.metrics.metric import cell
from gateway.metrics.serving import REFUSED_INPUTS
from gateway.ports.clock import Clock
from gateway.ports.inflight import SuspicionStore
from gateway.ports.metrics import MetricsBank
from gateway.serving.batch import Job, Ran
from gateway.serving.checking import Checker

_log = logging.getLogger(__name__)
_ROWS_MAX: Final = 64  # of a request, whose rows are told apart; 3 µs each
_FINGERPRINT_BYTES: Final = 16


@dataclass(slots=True)
class Watch:
    """The inputs of one version, by fingerprint."""

    suspects: set[bytes] = field(default_factory=set)
    refused: set[bytes] = field(default_factory=set)


class Poison:
    """The suspicions of one worker.

    Attributes:
        watches: By the digest of versions that a process died of; the same mapping always. Changed on the event loop alone.
    """

    def __init__(self, store: SuspicionStore, *, keep_s: float, metrics: MetricsBank, clock: Clock) -> None:
        self.watches: dict[str, Watch] = {}
        self._store = store
        self._keep_s = keep_s
        self._clock = clock
        self._known: Suspicions = ()
        self._refused = cell(metrics, REFUSED_INPUTS)

    def look(self) -> None:
        """Take over what other workers found out, and forget what is old; regularly, on the event loop."""
        try:
            news = self._store.news()
        except StoreFailed as error:
            _log.warning("what ends processes was not read", extra={"action": "retry", "reason": str(error)})
            return
        if news is not None:
            self._known = news
        now_s = self._clock.now_s()
        if news is None and all(one.until_s > now_s for one in self._known):
            return
        self._known = tuple(one for one in self._known if one.until_s > now_s)
        self._bind()

    def look_at(self, job: Job, checker: Checker) -> None:
        """Note the fingerprints of a job's inputs where they are watched, and whether it runs alone.

        Raises:
            PoisonousInput: it does not run at all.
        """
        version = checker.version
        watch = self.watches.get(version.digest)
        if watch is None:
            return
        job.fingerprints = fingerprints_of(job.inputs, job.rows, is_batched=checker.is_batched)
        if not watch.refused.isdisjoint(job.fingerprints):
            raise PoisonousInput(
                f"a process that ran version {version.version!r} of {version.model!r} died of this input",
                hint="it is refused for serving.poison_s, or until a version with another artifact takes its place",
            )
        job.is_alone = not watch.suspects.isdisjoint(job.fingerprints)

    def learn(self, batch: Sequence[Job], rans: Sequence[Ran], checker: Checker) -> None:
        """Look at how jobs ended whose process died without this worker, or that ran alone."""
        digest = checker.version.digest
        for job, ran in zip(batch, rans, strict=True):
            if isinstance(ran.fault, ProcessDied):
                found = job.fingerprints or fingerprints_of(job.inputs, job.rows, is_batched=checker.is_batched)
                self.died([(digest, [one.hex() for one in found])])
            elif job.is_alone and ran.fault is None:
                self._change(partial(after_survival, digest=digest, fingerprints=[one.hex() for one in job.fingerprints]))

    def died(self, runs: Sequence[DeadRun]) -> None:
        """Remember that a process died during runs."""
        if self._keep_s and runs:
            self._change(partial(after_death, runs=runs, now_s=self._clock.now_s(), keep_s=self._keep_s))
            facts = {"action": "watch", "digests": sorted({digest for digest, _ in runs})[:10]}
            _log.warning("a process died while it ran these versions; their inputs are watched", extra=facts)

    def _change(self, change: Callable[[Suspicions], Suspicions]) -> None:
        try:
            self._store.change(change)
        except StoreFailed as error:  # serving goes on; the next death tries again
            _log.error("what ended a process was not remembered", extra={"action": "watch", "reason": str(error)})
        self.look()

    def _bind(self) -> None:
        self.watches.clear()
        for one in self._known:
            watch = self.watches.setdefault(one.digest, Watch())
            if one.standing is Standing.SUSPECT:
                watch.suspects.add(bytes.fromhex(one.fingerprint))
            elif one.standing is Standing.REFUSED:
                watch.refused.add(bytes.fromhex(one.fingerprint))
        self._refused.set(sum(len(watch.refused) for watch in self.watches.values()))


def fingerprints_of(inputs: Sequence[Tensor], rows: int, *, is_batched: bool) -> tuple[bytes, ...]:
    """Return the fingerprint of each row of a request, or one fingerprint where it has no rows or too many to tell apart."""
    if not is_batched or not 0 < rows <= _ROWS_MAX:
        return (_fingerprint(inputs, [tensor.data for tensor in inputs]),)
    return tuple([_fingerprint(inputs, [tensor.data[at] for tensor in inputs]) for at in range(rows)])


def _fingerprint(inputs: Sequence[Tensor], data: Sequence[Array]) -> bytes:
    digest = hashlib.blake2b(digest_size=_FINGERPRINT_BYTES)
    for tensor, part in zip(inputs, data, strict=True):
        digest.update(f"{tensor.name}\0{tensor.datatype.value}{np.shape(part)}\0".encode())
        plain = np.asarray(part)
        digest.update(repr(plain.tolist()).encode() if plain.dtype == np.object_ else plain.tobytes())
    return digest.digest()
