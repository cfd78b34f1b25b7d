"""The codec writes every record as one JSON line and reads it back to the bit."""

from __future__ import annotations

import json

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.logs.codec import END_OF_APPEND, END_OF_LINE, decode, encode
from gateway.core.errors import LogFailed
from gateway.core.record_bodies import ground_truth_body, prediction_body
from gateway.core.records import Anchor, Attempt, GroundTruthRecord, Heartbeat, Kind, Outcome, PredictionRecord, StreamEnd
from gateway.core.tensors import NUMPY_DTYPES, Datatype, Tensor
from tests.records import prediction

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
TIMES = st.floats(0, 4e9)
COUNTS = st.integers(0, 2**53)


def values(datatype: Datatype) -> st.SearchStrategy[object]:
    """Return the elements of a datatype; floats of any bit pattern, NaN payloads included."""
    if datatype is Datatype.BYTES:
        return st.one_of(st.binary(max_size=8), TEXT.map(str.encode))
    dtype = NUMPY_DTYPES[datatype]
    if dtype.kind == "f":
        return arrays.from_dtype(dtype, allow_nan=True, allow_subnormal=True)
    return arrays.from_dtype(dtype)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    datatype = draw(st.sampled_from(list(NUMPY_DTYPES)))
    shape = draw(SHAPES)
    count = int(np.prod(shape, dtype=int))
    drawn = draw(st.lists(values(datatype), min_size=count, max_size=count))
    flat = np.empty(count, NUMPY_DTYPES[datatype])
    flat[:] = drawn
    return Tensor(draw(TEXT), datatype, flat.reshape(shape))


attempts = st.builds(Attempt, TEXT, TEXT, st.sampled_from(Outcome), COUNTS)
predictions = st.builds(
    PredictionRecord,
    prediction_id=TEXT,
    time_s=TIMES,
    kind=st.sampled_from(Kind),
    model=TEXT,
    route=TEXT,
    revision=COUNTS,
    assigned=TEXT,
    variant=TEXT,
    version=TEXT,
    digest=TEXT,
    attempts=st.lists(attempts, min_size=1, max_size=2).map(tuple),
    assignment_key=TEXT,
    is_keyed=st.booleans(),
    inputs=st.lists(tensors(), max_size=2).map(tuple),
    outputs=st.lists(tensors(), max_size=2).map(tuple),
    batch_rows=COUNTS,
    batch_position=COUNTS,
    runtime_version=TEXT,
    outcome=st.sampled_from(Outcome),
    latency_us=COUNTS,
    shadow_of=TEXT,
    trace_id=TEXT,
    resting=st.lists(TEXT, max_size=2).map(tuple),
)
truth_values = st.one_of(TEXT, st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.integers(-(2**63), 2**64 - 1))
truths = st.builds(GroundTruthRecord, TEXT, TIMES, COUNTS, truth_values, TIMES, TEXT)
anchors = st.builds(Anchor, TIMES, COUNTS, TEXT)
records = st.one_of(predictions, truths, anchors, st.builds(Heartbeat, TIMES), st.builds(StreamEnd, TIMES))


def bits(tensor: Tensor) -> object:
    """Return what must survive: everything, to the bit."""
    data = tensor.data
    held = data.ravel().tolist() if tensor.datatype is Datatype.BYTES else data.tobytes()
    return tensor.name, tensor.datatype, data.dtype, data.shape, data.flags.c_contiguous, held


def comparable(record: object) -> object:
    """Return a record as a value that compares by bits; arrays themselves do not compare."""
    if not isinstance(record, PredictionRecord):
        return record, type(getattr(record, "value", None))
    plain = {name: getattr(record, name) for name in record.__slots__ if name not in ("inputs", "outputs")}
    return plain, [bits(tensor) for tensor in record.inputs], [bits(tensor) for tensor in record.outputs]


@given(st.lists(records, min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_codec_round_trips_every_record(batch):
    """What was encoded comes back: same types, same shapes, same bits."""
    lines = encode(batch).splitlines(keepends=True)
    assert [comparable(decode(line)) for line in lines] == [comparable(record) for record in batch]


@given(st.lists(records, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_codec_marks_the_end_of_an_append(batch):
    """Only the last line of an append ends in a brace and a newline, and every line is strict JSON for any reader."""
    lines = encode(batch).splitlines(keepends=True)
    assert len(lines) == len(batch)
    assert all(line.endswith(END_OF_LINE) for line in lines[:-1])
    assert lines[-1].endswith(END_OF_APPEND)
    assert all(json.loads(line, parse_constant=pytest.fail)["v"] == 1 for line in lines)


@given(st.one_of(predictions, truths))
@settings(max_examples=60, deadline=None)
def test_record_bodies_are_the_lines(record):
    """What is shown of a record that is still in the log is what its line says."""
    body = prediction_body(record) if isinstance(record, PredictionRecord) else ground_truth_body(record)
    assert json.dumps(body) == json.dumps(json.loads(encode([record])))


@given(arrays.arrays(np.uint32, 64, elements=st.integers(0, 2**32 - 1)))
@settings(max_examples=100, deadline=None)
def test_codec_keeps_every_float32(patterns):
    """Any FP32 bit pattern survives the way through its shortest decimal form."""
    data = patterns.view(np.float32)
    record = about(Tensor("x", Datatype.FP32, data))
    assert decode(encode([record])).inputs[0].data.tobytes() == data.tobytes()


def test_codec_prints_numbers_short():
    """A float takes the digits it needs, the sign of zero and the largest integer stand."""
    line = encode([about(Tensor("x", Datatype.FP32, np.array([0.1, -0.0, 1e-45], np.float32)))])
    assert b'{"name":"x","datatype":"FP32","shape":[3],"data":[0.1,-0.0,1e-45]}' in line
    line = encode([about(Tensor("n", Datatype.UINT64, np.array([2**64 - 1], np.uint64)))])
    assert b'"data":[18446744073709551615]' in line


@pytest.mark.parametrize("datatype", [Datatype.FP32, Datatype.INT64, Datatype.BOOL])
def test_codec_writes_large_tensors_raw(datatype):
    """Up to 128 numbers are text, more are raw, and both read back to the bit."""
    dtype = NUMPY_DTYPES[datatype]
    small, large = (Tensor("x", datatype, np.arange(count).astype(dtype)) for count in (128, 129))
    lines = [encode([about(tensor)]) for tensor in (small, large)]
    assert [b'"raw"' in line for line in lines] == [False, True]
    for tensor, line in zip((small, large), lines, strict=True):
        (read,) = decode(line).inputs
        assert read.data.dtype == dtype
        assert read.data.tobytes() == tensor.data.tobytes()


def test_codec_keeps_what_json_cannot_hold():
    """NaN, infinities and bytes that are not text stand as base64 under `raw`."""
    line = encode([about(Tensor("x", Datatype.FP32, np.array([np.nan, np.inf], np.float32)))])
    assert b'"raw":"AADAfwAAgH8="' in line
    line = encode([about(Tensor("s", Datatype.BYTES, np.array([b"\xff", b""], np.object_)))])
    assert b'"raw":"AQAAAP8AAAAA"' in line


@pytest.mark.parametrize(
    "line",
    [
        b'{"v":2,"type":"heartbeat","time":1.0}',
        b'{"v":1,"type":"later","time":1.0}',
        b'{"v":1,"type":"heartbeat"}',
        b'{"type":"heartbeat","time":1.0}',
        b'{"v":1,"type":"heartbeat","time":1.',
        b"[]",
        b"",
    ],
)
def test_codec_refuses_what_it_does_not_know(line):
    """Another format, another type, a missing field and a damaged line are refused, never guessed."""
    with pytest.raises(LogFailed):
        decode(line)


def test_codec_ignores_fields_it_does_not_know():
    """A field that a later program adds within the format is no obstacle."""
    assert decode(b'{"v":1,"type":"heartbeat","time":2.5,"mood":"fine"}') == Heartbeat(2.5)


def about(*inputs: Tensor) -> PredictionRecord:
    """Return a record about nothing but its inputs."""
    return prediction(inputs=inputs)
