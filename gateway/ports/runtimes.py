"""What runs versions, in this process or another, and what tries them before they are registered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Protocol, runtime_checkable

from gateway.core.fields import Json
from gateway.core.models import Conversion, Version
from gateway.core.tensors import Array


class Instance(Protocol):
    """One loaded copy of a version."""

    @property
    def concurrency(self) -> int:
        """How many threads may be inside `predict` at once."""

    @property
    def provider(self) -> str:
        """What it computes on, `cpu` or an accelerator, though the version may name a better one that is not there."""

    @property
    def runtime_version(self) -> str:
        """Of the library, e.g. `1.31.1`; stands in every record."""

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return every output by name.

        Arrays are C-contiguous with the signature's datatypes; the outputs have not been checked against the signature.

        Raises:
            PredictFailed: the runtime raised.
        """

    def close(self) -> None:
        """Give the memory back; the instance is not used again."""


@runtime_checkable
class HoldsElsewhere(Protocol):
    """An instance that holds memory outside of this process."""

    @property
    def outside_bytes(self) -> int:
        """What it holds there now, files that are shared not counted."""


class RemoteRun(Protocol):
    """A prediction that another process is at. Ended once: by an `answer`, or else by `finish`.

    Attributes:
        deadline_s: After which `finish` is to be asked, on the clock's monotonic time.
    """

    deadline_s: float

    @property
    def process(self) -> int:
        """Which process it is; no two have the same number, not even one after the other."""

    def fileno(self) -> int:
        """Return a descriptor that becomes readable when there is something to ask for, and when the process has ended.

        The same one for every run of a process, and readable at no other time; closed when the process has been ended.
        """

    def answer(self) -> dict[str, Array] | None:
        """Return every output by name; None where `finish` has to be asked. Once; never blocks."""

    def finish(self) -> dict[str, Array]:
        """Wait for the answer, or return again what `answer` returned; raises as `Instance.predict` does. Blocks."""


@runtime_checkable
class BoundedInstance(Instance, Protocol):
    """An instance whose predictions can be ended, because other processes do what may stand still."""

    def predict_within(self, inputs: Mapping[str, Array], within_s: float, *, is_again: bool) -> dict[str, Array]:
        """Predict for so long at most; else as `predict`.

        Args:
            is_again: Whether these rows were part of a run that failed: a process that died of that run is replaced at once for
                them, and their own deaths are part of that one.
        """


@runtime_checkable
class RemoteInstance(BoundedInstance, Protocol):
    """An instance all of whose work another process does, so that no thread is needed to wait for it."""

    def begin(self, inputs: Mapping[str, Array], *, within_s: float = math.inf) -> RemoteRun | None:
        """Begin a prediction, of so long at most; None where `predict_within` has to be asked. Never blocks."""


class Runtime(Protocol):
    """Loads artifacts of one kind."""

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance, not yet warm.

        Raises:
            LoadFailed: the artifact is not loadable.
        """


class Validator(Protocol):
    """Runs an uploaded version where it can harm nothing."""

    def validate(
        self,
        artifact: PurePath,
        reference: PurePath | None,
        version: Version,
        *,
        before: Sequence[tuple[Version, PurePath]] = (),
    ) -> Version:
        """Return `version` with signature, profile, runtime version and cost filled in.

        Runs in a process of its own with a deadline and a memory bound: loads the artifact, reads its signature, runs it on the
        reference sample, checks the outputs, measures the cost of a row.

        Args:
            reference: Parquet, CSV or JSON Lines, by suffix; None when none was sent.
            version: As far as the metadata says.
            before: The members, each with its artifact, that make the version a chain; it is run as a whole then.

        Raises:
            NotValid: with the reason; also when it ran out of time or memory or killed its process.
        """

    def convert(
        self, artifact: PurePath, reference: PurePath, version: Version, conversion: Conversion, into: PurePath
    ) -> Version:
        """Validate a pickled version, convert it, and validate what came out; return that ONNX version, with its own digest.

        Its lineage says what it was converted from, how far the answers on the reference differ, and the speed-up.

        Args:
            into: A staged file that gets the ONNX model.

        Raises:
            NotValid: as of `validate`; there is no converter for it; the answers differ by more than `conversion` allows.
        """

    def recompute(
        self, artifact: PurePath, version: Version, prediction: Json, *, members: Sequence[tuple[Version, PurePath]] = ()
    ) -> Json:
        """Run a version on a logged prediction's inputs, at the recorded place in a batch of the recorded size, and compare.

        Args:
            prediction: As its line in the log; answered by this version.
            members: Of a chain, each with its artifact.

        Returns:
            `runtime_version` of the library now, and `outputs`: of each recorded one its `name`, `elements`, how many of them are
            `unequal` in any bit, and the `largest_difference` (null for text and other shapes, text when it is infinite).

        Raises:
            NotValid: it does not load or run any more, or it ran out of time or memory or killed its process.
        """
