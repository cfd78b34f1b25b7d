"""A prediction that a process is at, as the event loop sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from adapters.runtimes.pickles.forkserver import Fork
from adapters.runtimes.pickles.framing import Broken
from gateway.core.errors import OutputMismatch
from gateway.core.tensors import Array

if TYPE_CHECKING:
    from adapters.runtimes.pickled import PickledInstance


class PickledRun:
    """A prediction that a process is at; ended by `answer` or, where that has none, by `finish`."""

    def __init__(self, instance: PickledInstance, fork: Fork, within_s: float) -> None:
        self.deadline_s = time.monotonic() + within_s
        self._within_s = within_s
        self._instance = instance
        self._fork = fork
        self._failure: Broken | OutputMismatch | None = None
        self._outputs: dict[str, Array] | None = None

    @property
    def process(self) -> int:
        """The number of the process, which no other has."""
        return self._fork.number

    def fileno(self) -> int:
        """Return the descriptor that becomes readable with the answer, or with the end of the process."""
        return self._fork.fileno()

    def answer(self) -> dict[str, Array] | None:
        """Return every output by name; None where `finish` has to be asked."""
        try:
            found = self._fork.answer_at_once()
        except Broken as failure:
            self._failure = failure
            return None
        if found is None:
            return None
        self._instance.give_back(self._fork)
        try:
            self._outputs = self._instance.named(found)
        except OutputMismatch as failure:
            self._failure = failure
        return self._outputs

    def finish(self) -> dict[str, Array]:
        """Wait for the answer and return it again, if there was one.

        Raises:
            PredictFailed, OutputMismatch: as of `PickledInstance.predict`.
        """
        if self._outputs is not None:
            return self._outputs
        if isinstance(self._failure, OutputMismatch):
            raise self._failure
        with self._instance.at_work(self._fork, self._within_s):
            if self._failure is not None:
                raise self._failure
            found = self._fork.answer(self.deadline_s)
        return self._instance.named(found)
