"""Chains: every member an instance of its own, run one after the other in the caller's thread.

What a member answers is checked before the next one sees it, so that a fault names the member whose it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePath

import numpy as np

from gateway.core.chains import manifest, sources
from gateway.core.errors import LoadFailed, NotValid, PredictFailed
from gateway.core.models import Runtime as RuntimeName
from gateway.core.models import Version
from gateway.core.tensors import NUMPY_DTYPES, Array, TensorSpec
from gateway.ports.runtimes import BoundedInstance, HoldsElsewhere, Instance, Runtime
from gateway.ports.stores import ArtifactStore


class ChainedRuntime:
    """Loads chains, each member from the artifact store under its own runtime."""

    def __init__(self, runtimes: Mapping[RuntimeName, Runtime], artifacts: ArtifactStore) -> None:
        self._runtimes = dict(runtimes)
        self._artifacts = artifacts

    def load(self, path: PurePath, version: Version) -> Instance:
        """Return an instance of all members.

        Args:
            path: The manifest.

        Raises:
            LoadFailed: the manifest names other members, one does not load, or they do not fit.
            ArtifactCorrupt: an artifact's bytes changed.
        """
        try:
            found = Path(path).read_bytes()
        except OSError as error:
            raise LoadFailed(f"the chain's manifest cannot be read: {error.strerror}") from error
        if found != manifest(version.members):
            raise LoadFailed(f"the manifest of version {version.version!r} of {version.model!r} names other members")
        return loaded([(member, self._artifacts.path(member.digest)) for member in version.members], self._runtimes)


def loaded(members: Sequence[tuple[Version, PurePath]], runtimes: Mapping[RuntimeName, Runtime]) -> Instance:
    """Return a chain of members that lie at the given paths.

    Raises:
        LoadFailed: one does not load, or its inputs are not what the one before it answers.
    """
    with ExitStack() as opened:
        instances = []
        for member, path in members:
            instances.append(_loaded(member, path, runtimes))
            opened.callback(instances[-1].close)
        instance = ChainedInstance([member for member, _ in members], instances)
        opened.pop_all()
    return instance


class ChainedInstance:
    """The instances of a chain's members."""

    def __init__(self, members: Sequence[Version], instances: Sequence[Instance]) -> None:
        self._first = instances[0]
        self._links = [_Link(*pair) for pair in zip(members, members[1:], instances[1:], strict=False)]
        self._instances = instances

    @property
    def concurrency(self) -> int:
        """The least of the members'."""
        return min(instance.concurrency for instance in self._instances)

    @property
    def provider(self) -> str:
        """Of every member, in the order in which they run."""
        return " + ".join(instance.provider for instance in self._instances)

    @property
    def runtime_version(self) -> str:
        """Of every member, in the order in which they run."""
        return " + ".join(instance.runtime_version for instance in self._instances)

    @property
    def outside_bytes(self) -> int:
        """Of every member that holds memory outside of this process."""
        return sum(instance.outside_bytes for instance in self._instances if isinstance(instance, HoldsElsewhere))

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the last member's outputs by name.

        Raises:
            PredictFailed: a member raised, or its answer does not fit the next one.
        """
        answer = self._first.predict(inputs)
        rows = _rows(inputs)
        for link in self._links:
            answer = link.instance.predict(link.given(answer, rows))
        return answer

    def predict_within(self, inputs: Mapping[str, Array], within_s: float, *, is_again: bool) -> dict[str, Array]:
        """Return as `predict` does; members that can be ended have so long together, and each so long where it is run again.

        Raises:
            PredictFailed: as of `predict`, or a member did not answer in time.
        """
        until_s = math.inf if is_again else time.monotonic() + within_s

        def answer_of(instance: Instance, given: Mapping[str, Array]) -> dict[str, Array]:
            if not isinstance(instance, BoundedInstance):
                return instance.predict(given)
            left_s = max(min(within_s, until_s - time.monotonic()), 0.0)
            return instance.predict_within(given, left_s, is_again=is_again)

        answer = answer_of(self._first, inputs)
        rows = _rows(inputs)
        for link in self._links:
            answer = answer_of(link.instance, link.given(answer, rows))
        return answer

    def close(self) -> None:
        """Close every member's."""
        for instance in self._instances:
            instance.close()


class _Link:
    """From one member's answer to the next one, whose `instance` it is."""

    def __init__(self, producer: Version, consumer: Version, instance: Instance) -> None:
        try:
            source = sources(producer, consumer)
        except NotValid as error:
            raise LoadFailed(error.message) from error
        self._inputs = [(spec, source[spec.name]) for spec in consumer.signature.inputs]
        self._is_batched = producer.signature.is_batched
        self._name = f"version {producer.version} of {producer.model}"
        self.instance = instance

    def given(self, answer: Mapping[str, Array], rows: int) -> dict[str, Array]:
        """Return what the next member gets of an answer to so many rows.

        Raises:
            PredictFailed: the answer is not what was registered.
        """
        return {spec.name: self._checked(spec, answer[source], rows) for spec, source in self._inputs}

    def _checked(self, spec: TensorSpec, data: Array, rows: int) -> Array:
        if data.dtype != NUMPY_DTYPES[spec.datatype] or not spec.accepts(data.shape):
            raise PredictFailed(f"{self._name} answered {data.dtype}{list(data.shape)} where {spec.name!r} is next in the chain")
        if self._is_batched and len(data) != rows:
            raise PredictFailed(f"{self._name} answered {len(data)} rows for {rows} in the chain")
        return np.ascontiguousarray(data)


def _loaded(member: Version, path: PurePath, runtimes: Mapping[RuntimeName, Runtime]) -> Instance:
    runtime = runtimes.get(member.runtime)
    if runtime is None:
        raise LoadFailed(f"version {member.version!r} of {member.model!r} needs the runtime {member.runtime.value!r}")
    try:
        return runtime.load(path, member)
    except LoadFailed as error:
        raise LoadFailed(f"version {member.version!r} of {member.model!r}: {error.message}", hint=error.hint) from error


def _rows(inputs: Mapping[str, Array]) -> int:
    first = next(iter(inputs.values()))
    return len(first) if first.ndim else 1
