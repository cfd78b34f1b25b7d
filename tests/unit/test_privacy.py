"""What the log may hold: rules, what they come to for a version, and what a record is without it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.compose.start import prepare_data
from gateway.core.errors import MalformedRequest
from gateway.core.models import Column, Digest, Runtime, Version
from gateway.core.privacy import HASHED_ELEMENTS_MAX, Privacy, Redaction, all_dropped
from gateway.core.records import PredictionRecord
from gateway.core.tensors import NUMPY_DTYPES, Datatype, Signature, Tensor, TensorSpec
from gateway.settings import LogSettings, Settings
from tests.records import prediction

SECRET = b"0123456789abcdef"
NAMED = (
    TensorSpec("customer", Datatype.INT64, (-1, 1)),
    TensorSpec("email", Datatype.BYTES, (-1, 1)),
    TensorSpec("age", Datatype.FP32, (-1, 1)),
    TensorSpec("is_member", Datatype.BOOL, (-1, 1)),
)
WIDE = (TensorSpec("features", Datatype.FP32, (-1, 3)),)


def version(
    inputs: tuple[TensorSpec, ...] = NAMED, columns: tuple[str, ...] = (), outputs: tuple[TensorSpec, ...] = ()
) -> Version:
    return Version(
        model="credit",
        version="1",
        digest=Digest("0" * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature(inputs, outputs),
        columns=tuple(Column(name) for name in columns),
    )


def privacy(dropped: str = "", hashed: str = "", secret: bytes = SECRET) -> Privacy:
    return Privacy(dropped=dropped, hashed=hashed, secret=secret)


def record(*inputs: Tensor) -> PredictionRecord:
    return prediction(model="credit", route="loans", inputs=inputs)


def named(customer: int = 7, email: bytes = b"a@b.c", age: float = 31.5) -> PredictionRecord:
    return record(
        Tensor("customer", Datatype.INT64, np.array([[customer]], np.int64)),
        Tensor("email", Datatype.BYTES, np.array([[email]], np.object_)),
        Tensor("age", Datatype.FP32, np.array([[age]], np.float32)),
        Tensor("is_member", Datatype.BOOL, np.array([[True]])),
    )


def wide(*rows: tuple[float, float, float]) -> PredictionRecord:
    return record(Tensor("features", Datatype.FP32, np.array(rows, np.float32)))


def logged(rules: Privacy, made: PredictionRecord, of: Version) -> PredictionRecord:
    redaction = rules.redaction("loans", of)
    assert redaction is not None
    return rules.redacted(made, redaction)


@pytest.mark.parametrize("where", ["credit", "loans", "*"])
def test_rule_holds_for_its_model_its_route_or_all(where):
    """A rule may name the model, the route or every one; another's does not touch a prediction."""
    assert logged(privacy(f"{where}/email"), named(), version()).dropped == ("email",)
    assert privacy("other/email").redaction("loans", version()) is None


def test_dropped_input_says_how_many_rows_there_were_and_nothing_else():
    """What is dropped leaves its name, its datatype and its rows; the other inputs are untouched."""
    found = logged(privacy("credit/email"), named(), version())

    assert [tensor.shape for tensor in found.inputs] == [(1, 1), (1, 0), (1, 1), (1, 1)]
    assert found.inputs[1].data.tolist() == [[]]
    assert found.inputs[2].data.tolist() == [[31.5]]
    assert (found.dropped, found.hashed) == (("email",), ())


@pytest.mark.parametrize("rules", [{"dropped": "*/letter"}, {"hashed": "credit/letter"}])
def test_output_is_left_out_by_either_rule(rules):
    """An answer's hash would be taken for an answer: what names an output leaves it out, the others and the inputs stay."""
    outputs = (TensorSpec("score", Datatype.FP32, (-1, 1)), TensorSpec("letter", Datatype.BYTES, (-1, 1)))
    answered = replace(
        named(),
        outputs=(
            Tensor("score", Datatype.FP32, np.array([[0.25]], np.float32)),
            Tensor("letter", Datatype.BYTES, np.array([[b"Dear Ms Sentinel"]], np.object_)),
        ),
    )
    found = logged(privacy(**rules), answered, version(outputs=outputs))
    assert (found.dropped, found.hashed, found.inputs) == (("letter",), (), answered.inputs)
    assert [tensor.shape for tensor in found.outputs] == [(1, 1), (1, 0)]
    assert found.outputs[0].data.tolist() == [[0.25]]
    redaction = privacy(**rules).redaction("loans", version(WIDE, outputs=outputs))
    assert (redaction.dropped, redaction.unmatched) == (("letter",), ())  # found, so that no nameless column is suspected


def test_hashed_values_are_equal_when_the_values_are():
    """A hash tells nothing but equality: the same for the same value of a column, another for another column or secret."""
    rules = privacy(hashed="*/customer, */email")
    one, same, other = (logged(rules, made, version()) for made in (named(), named(age=1.0), named(customer=8)))
    elsewhere = logged(privacy(hashed="*/customer", secret=b"f" * 16), named(), version())

    assert one.inputs[0].data == same.inputs[0].data != other.inputs[0].data
    assert one.inputs[0].data.item() not in (7, elsewhere.inputs[0].data.item())
    assert len(one.inputs[1].data.item()) == 16
    assert b"a@b" not in one.inputs[1].data.item()
    assert (one.dropped, one.hashed) == ((), ("customer", "email"))


def test_hash_does_not_join_different_columns():
    """The same value in two columns has two hashes, so that the log does not link them."""
    twice = (TensorSpec("a", Datatype.INT64, (-1,)), TensorSpec("b", Datatype.INT64, (-1,)))
    made = record(*(Tensor(name, Datatype.INT64, np.array([5], np.int64)) for name in "ab"))
    found = logged(privacy(hashed="*/a, */b"), made, version(twice))
    assert found.inputs[0].data != found.inputs[1].data


@given(st.sampled_from([Datatype.INT32, Datatype.INT64, Datatype.FP32, Datatype.FP64]), st.integers(0, 2**31 - 1))
def test_hash_of_a_number_is_a_finite_number_of_its_type(datatype, value):
    """Whatever the datatype, a hash is one of its numbers: never negative, NaN or infinite."""
    spec = (TensorSpec("x", datatype, (-1, 1)), TensorSpec("z", datatype, (-1, 1)))
    data = np.array([[value]], NUMPY_DTYPES[datatype])
    found = logged(privacy(hashed="*/x"), record(Tensor("x", datatype, data), Tensor("z", datatype, data)), version(spec)).inputs
    assert found[0].data.dtype == data.dtype
    assert np.isfinite(found[0].data.astype(np.float64)).all()
    assert found[0].data >= 0
    assert found[1].data == data


def test_column_of_a_wide_input_is_found_by_its_name():
    """Of one wide input only the named columns change; NaN stands where one is dropped."""
    rules, of = privacy("credit/age", "credit/customer"), version(WIDE, ("customer", "age", "income"))
    found = logged(rules, wide((1, 2, 3), (1, 5, 6)), of).inputs[0].data

    assert np.isnan(found[:, 1]).all()
    assert found[:, 2].tolist() == [3, 6]
    assert found[0, 0] == found[1, 0] != 1.0


def test_column_that_cannot_be_found_takes_nameless_inputs_with_it():
    """Where a version's columns have no names, any of them could be the one: the whole input is dropped."""
    assert logged(privacy("credit/age"), wide((1, 2, 3)), version(WIDE)).dropped == ("features",)
    assert privacy("*/age").redaction("loans", version(WIDE)) == Redaction((), ())


def test_wide_input_of_another_width_is_dropped():
    """If the columns are not those that the version promised, nobody knows which is which."""
    of = version((TensorSpec("features", Datatype.FP32, (-1, -1)),), ("customer", "age"))
    assert logged(privacy("credit/age"), wide((1, 2, 3)), of).dropped == ("age", "features")


def test_name_that_a_version_does_not_have_is_told():
    """A misspelt column does not go unnoticed."""
    redaction = privacy("credit/emial, */phone").redaction("loans", version())
    assert redaction is not None
    assert redaction.unmatched == ("emial",)


def test_truth_value_is_dropped_rather_than_hashed():
    """A hash without room for it would be the value again, or meet others."""
    assert logged(privacy(hashed="credit/is_member"), named(), version()).dropped == ("is_member",)


def test_too_many_values_are_dropped_rather_than_hashed():
    """Hashing has a bound; beyond it nothing of the columns is written, and the record says so."""
    rows = HASHED_ELEMENTS_MAX + 1
    made = record(Tensor("email", Datatype.BYTES, np.full((rows, 1), b"a@b.c", np.object_)))
    found = logged(privacy(hashed="*/email"), made, version(NAMED[1:2]))
    assert (found.inputs[0].shape, found.dropped, found.hashed) == ((rows, 0), ("email",), ())


def test_assignment_key_is_hashed_with_the_secret():
    """The key's hash can no longer be found by hashing guesses, and still tells callers apart."""
    one = logged(privacy(hashed="*/assignment_key"), named(), version())
    other = logged(privacy(hashed="*/assignment_key"), replace(named(), assignment_key="f" * 16), version())
    assert one.assignment_key not in (named().assignment_key, other.assignment_key)
    assert len(one.assignment_key) == 16
    assert (one.inputs[1].data, one.hashed) == (b"a@b.c", ())


def test_record_of_an_unknown_version_loses_every_input():
    """What nobody can tell of is not written."""
    found = all_dropped(named())
    assert all(tensor.data.size == 0 for tensor in found.inputs)
    assert found.dropped == ("customer", "email", "age", "is_member")


@pytest.mark.parametrize(
    ("dropped", "hashed", "secret", "word"),
    [
        ("email", "", SECRET, "MODEL/COLUMN"),
        ("", "/email", SECRET, "log.hashed"),
        ("*/assignment_key", "", SECRET, "hashed only"),
        ("*/email", "", b"short", "16 to 64"),
    ],
)
def test_wrong_rule_is_refused(dropped, hashed, secret, word):
    """A rule that is no rule, or a secret that could be guessed, stops the start."""
    with pytest.raises(MalformedRequest, match=word):
        privacy(dropped, hashed, secret)


def test_start_makes_a_secret_once(tmp_path):
    """The first start that hashes makes a secret that nobody else can read; the next one keeps it."""
    settings = Settings(data_dir=tmp_path / "data", log=LogSettings(hashed="*/email"))
    prepare_data(settings)
    path = tmp_path / "data" / "log.secret"
    secret = path.read_bytes()
    assert (len(secret), path.stat().st_mode & 0o777) == (64, 0o600)
    prepare_data(settings)
    assert path.read_bytes() == secret


@pytest.mark.parametrize("wrong", [{"dropped": "email"}, {"hashed": "*/email", "secret_file": "nowhere"}])
def test_start_refuses_wrong_rules(tmp_path, wrong):
    """A rule or a secret that cannot be used stops the start, before anything is logged."""
    with pytest.raises(MalformedRequest, match="log"):
        prepare_data(Settings(data_dir=tmp_path / "data", log=LogSettings(**wrong)))


def test_start_without_rules_makes_no_secret(tmp_path):
    """What is not needed is not made."""
    prepare_data(Settings(data_dir=tmp_path / "data"))
    assert not (tmp_path / "data" / "log.secret").exists()
