"""Chains: which outputs become which inputs, and what the digest of the whole depends on."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from gateway.core.chains import chain_of, digests_of, manifest, members_before, named, sources
from gateway.core.errors import NotValid
from gateway.core.models import Batching, Column, Digest, Pickled, Runtime, Version
from gateway.core.tensors import Datatype, Signature, TensorSpec

WIDE = TensorSpec("features", Datatype.FP32, (-1, 4))
RAW = TensorSpec("raw", Datatype.FP64, (-1, 6))
ANSWER = TensorSpec("probability", Datatype.FP32, (-1, 1))


def version(model: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], **more: object) -> Version:
    """Return a version whose digest is its model's name, repeated."""
    digest = Digest(hashlib.sha256(model.encode()).hexdigest())
    return Version(model, "1", digest, 10, Runtime.ONNX, "1", Signature(inputs, outputs), **more)


SCALER = version("scaler", (RAW,), (WIDE,), columns=(Column("a"),), profile={"rows": 1})
DELAYS = version("delays", (WIDE,), (ANSWER,))


def test_chain_takes_inputs_of_the_first_and_outputs_of_the_last():
    """A chain is called with what its first member takes and answers as its last does; both are counted."""
    chain = chain_of(DELAYS, [SCALER])
    assert (chain.runtime, chain.signature) == (Runtime.CHAINED, Signature((RAW,), (ANSWER,)))
    assert chain.size_bytes == 20
    assert [member.model for member in chain.members] == ["scaler", "delays"]
    assert hashlib.sha256(manifest(chain.members)).hexdigest() == chain.digest


@pytest.mark.parametrize(
    ("before", "own"),
    [
        (replace(SCALER, digest=Digest("b" * 64)), DELAYS),
        (SCALER, replace(DELAYS, digest=Digest("b" * 64))),
    ],
)
def test_digest_changes_with_either_part(before, own):
    """Other bytes of a member are another digest; other words about it are not."""
    usual = chain_of(DELAYS, [SCALER]).digest
    assert chain_of(own, [before]).digest != usual
    assert chain_of(replace(DELAYS, description="x"), [replace(SCALER, lineage={"a": 1})]).digest == usual


def test_digest_changes_with_what_is_called():
    """A pickle whose other method is called answers otherwise, and makes another chain."""
    one, other = (replace(SCALER, runtime=Runtime.PICKLED, pickled=Pickled(method=method)) for method in ("transform", "predict"))
    assert chain_of(DELAYS, [one]).digest != chain_of(DELAYS, [other]).digest


def test_digest_changes_with_what_runs_a_pickle_and_the_frame_it_gets():
    """Another environment or other columns make another chain; a pickle without either has the digest that it always had."""
    plain = replace(SCALER, runtime=Runtime.PICKLED, pickled=Pickled("transform"))
    frame = replace(plain, pickled=Pickled("transform", is_frame=True), columns=(Column("a"), Column("b")))
    others = [
        plain,
        replace(plain, pickled=Pickled("transform", interpreter="/opt/old/bin/python")),
        replace(plain, pickled=Pickled("transform", interpreter="/opt/new/bin/python")),
        frame,
        replace(frame, columns=frame.columns[::-1]),
    ]
    digests = [chain_of(DELAYS, [one]).digest for one in others]
    assert len(set(digests)) == len(digests)
    assert digests[0] == "2e44b8f8c48ae596e0fc875359189a0ac02e690159c8b5c4b2850436b7060b27"


def test_digest_depends_on_the_order():
    """The same members in another order are another version."""
    double = version("double", (WIDE,), (WIDE,))
    halve = version("halve", (WIDE,), (WIDE,))
    assert chain_of(DELAYS, [double, halve]).digest != chain_of(DELAYS, [halve, double]).digest


def test_chain_goes_on_from_a_chain_up_to_three_members():
    """A chain may be named as preprocessing: its members come first; a fourth member is refused."""
    middle = chain_of(version("middle", (WIDE,), (WIDE,)), [SCALER])
    whole = chain_of(DELAYS, members_before(middle))
    assert [member.model for member in whole.members] == ["scaler", "middle", "delays"]
    assert set(digests_of(whole)) == {whole.digest, middle.digest, *(member.digest for member in whole.members)}
    with pytest.raises(NotValid, match="at most 3"):
        chain_of(version("last", (ANSWER,), (ANSWER,)), members_before(whole))


def test_batches_are_as_small_as_any_member_asks():
    """A run of a chain has no more rows than the member that takes fewest; without a word warm-up decides."""
    assert chain_of(DELAYS, [SCALER]).batching.rows_max == 0
    bounded = [replace(one, batching=Batching(rows_max=rows)) for one, rows in ((SCALER, 16), (DELAYS, 64))]
    assert chain_of(DELAYS, bounded[:1]).batching.rows_max == 16
    assert chain_of(bounded[1], bounded[:1]).batching.rows_max == 16


def test_own_member_bears_the_name_of_the_chain():
    """Naming a chain names its last member, and no other."""
    chain = named(chain_of(DELAYS, [SCALER]), "7")
    assert [chain.version, *(member.version for member in chain.members)] == ["7", "1", "7"]
    assert named(DELAYS, "7") == replace(DELAYS, version="7")


def test_outputs_meet_inputs_by_name_or_the_only_one_the_only_one():
    """One output and one input need no common name; several do, and what nobody takes is left."""
    only = replace(SCALER, signature=Signature((RAW,), (replace(WIDE, name="variable"),)))
    assert sources(only, DELAYS) == {"features": "variable"}
    several = replace(SCALER, signature=Signature((RAW,), (ANSWER, WIDE)))
    assert sources(several, DELAYS) == {"features": "features"}


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ((replace(WIDE, name="variable"), ANSWER), "input 'features' is none of"),
        ((replace(WIDE, datatype=Datatype.FP64),), "FP64"),
        ((replace(WIDE, shape=(-1, 5)),), r"\[-1, 5\]"),
        ((replace(WIDE, shape=(-1, -1)),), r"\[-1, -1\]"),
        ((replace(WIDE, shape=(-1,)),), r"\[-1\]"),
    ],
)
def test_members_that_do_not_fit_are_refused(outputs, reason):
    """A missing output, another datatype and another shape are each named."""
    with pytest.raises(NotValid, match=reason):
        chain_of(DELAYS, [replace(SCALER, signature=Signature((RAW,), outputs))])
