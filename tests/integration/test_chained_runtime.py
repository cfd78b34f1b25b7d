"""Chains at their runtime: what passes from one member to the next, and whose fault it is when it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.runtimes.chained import ChainedInstance, ChainedRuntime
from adapters.runtimes.onnx import OnnxRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from gateway.core.chains import chain_of, manifest
from gateway.core.errors import ArtifactCorrupt, LoadFailed, PredictFailed
from gateway.core.models import Digest, Runtime, Version
from gateway.core.tensors import Array, Datatype, Signature, TensorSpec
from gateway.serving.warming import warmed

FEATURES = 4
RAW, WIDE = (TensorSpec(name, Datatype.FP32, (-1, FEATURES)) for name in ("raw", "features"))
ANSWER = TensorSpec("probability", Datatype.FP32, (-1, 1))
ROWS = np.random.default_rng(1).normal(size=(3, FEATURES)).astype(np.float32)


@pytest.fixture
def artifacts(tmp_path):
    """Return an empty artifact store."""
    return DirectoryArtifacts(tmp_path / "artifacts")


@pytest.fixture
def chain(artifacts, write_linear_model, write_scaling_model, tmp_path):
    """Return a chain of a scaling and a linear model, its artifacts and manifest in the store."""
    scaler = _kept(artifacts, write_scaling_model(tmp_path / "s", 2.0, features=FEATURES), Signature((RAW,), (WIDE,)))
    linear = _kept(artifacts, write_linear_model(tmp_path / "l", features=FEATURES), Signature((WIDE,), (ANSWER,)))
    made = chain_of(linear, [scaler])
    staged = Path(artifacts.staging())
    staged.write_bytes(manifest(made.members))
    artifacts.put(staged, made.digest)
    return made


def _kept(artifacts: DirectoryArtifacts, path: Path, signature: Signature) -> Version:
    """Put an artifact into the store and return a version of it."""
    digest = Digest(hashlib.sha256(path.read_bytes()).hexdigest())
    size_bytes = path.stat().st_size
    artifacts.put(path, digest)
    return Version("m", digest[:4], digest, size_bytes, Runtime.ONNX, "", signature)


def _runtime(artifacts: DirectoryArtifacts) -> ChainedRuntime:
    return ChainedRuntime({Runtime.ONNX: OnnxRuntime()}, artifacts)


def test_chain_is_warmed_like_any_version(chain, artifacts):
    """A chain answers as its members one after the other, is measured as a whole, and weighs at least what both do."""
    runtimes = {Runtime.CHAINED: _runtime(artifacts)}
    warm = warmed(chain, artifacts, runtimes, runs=3, memory=Heap(), clock=SystemClock())
    members = [OnnxRuntime().load(artifacts.path(member.digest), member) for member in chain.members]
    expected = members[1].predict(members[0].predict({"raw": ROWS}))
    assert np.array_equal(warm.instance.predict({"raw": ROWS})["probability"], expected["probability"])
    assert warm.memory_bytes >= sum(member.size_bytes for member in chain.members)
    assert warm.instance.runtime_version == " + ".join(one.runtime_version for one in members)
    warm.instance.close()
    with pytest.raises(PredictFailed):
        warm.instance.predict({"raw": ROWS})


def test_other_members_than_the_manifests_are_not_loaded(chain, artifacts):
    """Members that are not those of the registered digest do not load, whatever the registry says."""
    swapped = replace(chain, members=(replace(chain.members[0], digest=chain.members[1].digest), chain.members[1]))
    with pytest.raises(LoadFailed, match="names other members"):
        _runtime(artifacts).load(artifacts.path(chain.digest), swapped)


def test_changed_member_is_not_loaded(chain, artifacts):
    """A member's bytes are verified like any artifact's."""
    path = Path(artifacts.path(chain.members[0].digest))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ArtifactCorrupt):
        _runtime(artifacts).load(artifacts.path(chain.digest), chain)


class Fixed:
    """A member that always answers the same array, as a model that breaks its signature does."""

    concurrency = 2
    runtime_version = "fixed"

    def __init__(self, answer: Array) -> None:
        self._answer = answer

    def predict(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the array under the one output's name."""
        assert inputs
        return {"features": self._answer}

    def close(self) -> None:
        """Hold nothing."""


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (np.zeros((3, FEATURES + 1), np.float32), r"\[3, 5\]"),
        (np.zeros((3, FEATURES)), "float64"),
        (np.zeros((2, FEATURES), np.float32), "2 rows for 3"),
    ],
)
def test_member_that_breaks_its_signature_is_named(chain, artifacts, answer, reason):
    """What a member answers is checked before the next one sees it."""
    own = chain.members[1]
    instance = ChainedInstance(chain.members, [Fixed(answer), OnnxRuntime().load(artifacts.path(own.digest), own)])
    with pytest.raises(PredictFailed, match=f"version {chain.members[0].version} of m answered .*{reason}"):
        instance.predict({"raw": ROWS})
