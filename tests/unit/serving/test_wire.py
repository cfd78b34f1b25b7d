"""The JSON forms of requests and answers."""

from __future__ import annotations

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import MalformedRequest, Rejected
from gateway.core.records import PredictionRecord
from gateway.core.tensors import NUMPY_DTYPES, Datatype, Tensor
from gateway.serving.wire import Request, decode_binary, decode_infer, encode_infer, encode_rows
from tests.records import prediction

ELEMENTS = {
    Datatype.BOOL: st.booleans(),
    Datatype.UINT8: st.integers(0, 255),
    Datatype.UINT16: st.integers(0, 2**16 - 1),
    Datatype.UINT32: st.integers(0, 2**32 - 1),
    Datatype.UINT64: st.integers(0, 2**64 - 1),
    Datatype.INT8: st.integers(-128, 127),
    Datatype.INT16: st.integers(-(2**15), 2**15 - 1),
    Datatype.INT32: st.integers(-(2**31), 2**31 - 1),
    Datatype.INT64: st.integers(-(2**63), 2**63 - 1),
    Datatype.FP32: st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False)),
    Datatype.FP64: st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
    Datatype.BYTES: st.text(),
}
JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)),
    max_leaves=20,
)


def record(*outputs: Tensor) -> PredictionRecord:
    """Return a record with these outputs."""
    return prediction(prediction_id="01a1fd45-6800-7000-8000-000000000001", model="m", route='r"1', variant="ä", outputs=outputs)


def nested(flat: list[object], shape: list[int]) -> object:
    """Return a flat list nested to a shape."""
    if len(shape) == 1:
        return flat
    step = len(flat) // shape[0] if shape[0] else 0
    return [nested(flat[at * step : (at + 1) * step], shape[1:]) for at in range(shape[0])]


@given(st.data())
def test_tensors_survive_the_way_in_and_out(data):
    """Every JSON datatype, flat or nested, comes out of an answer as it went into a request, to the bit."""
    datatype = data.draw(st.sampled_from(list(ELEMENTS)))
    shape = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    count = int(np.prod(shape))
    flat = data.draw(st.lists(ELEMENTS[datatype], min_size=count, max_size=count))
    sent = nested(flat, shape) if data.draw(st.booleans()) else flat
    body = orjson.dumps({"inputs": [{"name": "x", "shape": shape, "datatype": datatype.value, "data": sent}]})
    tensor = decode_infer(body).tensors["x"]
    assert tensor.data.dtype == NUMPY_DTYPES[datatype]
    assert tensor.data.shape == tuple(shape)
    assert tensor.data.flags.c_contiguous
    answer = orjson.loads(encode_infer(Request(), record(Tensor("y", datatype, tensor.data))))
    [output] = answer["outputs"]
    assert (output["name"], output["shape"], output["datatype"]) == ("y", shape, datatype.value)
    again = orjson.dumps({"inputs": [{**output, "name": "x"}]})
    back = decode_infer(again).tensors["x"].data
    if datatype is Datatype.BYTES:
        assert back.tolist() == tensor.data.tolist()
    else:
        assert back.tobytes() == tensor.data.tobytes()


@given(JSON)
def test_any_json_is_decoded_or_refused(body):
    """Whatever JSON comes, decoding returns a request or raises what is the caller's fault."""
    for content in (
        body,
        {"inputs": body},
        {"inputs": [body]},
        {"inputs": [{"name": "x", "shape": body, "datatype": "FP32", "data": body}]},
    ):
        try:
            decode_infer(orjson.dumps(content))
        except Rejected:
            continue


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_the_callers_fault(body):
    """Bytes that are no request raise nothing but the caller's fault."""
    with pytest.raises(Rejected):
        decode_infer(body)


@given(st.data())
def test_any_binary_body_is_decoded_or_refused(data):
    """Whatever a JSON part says of what follows, and whatever follows, nothing but the caller's fault is raised."""
    sizes = st.one_of(st.integers(-1, 40), JSON)
    tensors = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["x", "y"]),
            "datatype": st.sampled_from([*(datatype.value for datatype in Datatype), "STRING"]),
            "shape": st.lists(st.integers(0, 4), max_size=3),
        },
        optional={"parameters": st.fixed_dictionaries({"binary_data_size": sizes}), "data": JSON},
    )
    head = orjson.dumps({"inputs": data.draw(st.lists(tensors, max_size=3))})
    body = head + data.draw(st.binary(max_size=60))
    try:
        request = decode_binary(body, data.draw(st.sampled_from([len(head), len(head) - 1, min(len(head) + 1, len(body)), 0])))
    except Rejected:
        return
    assert all(tensor.data.dtype == NUMPY_DTYPES[tensor.datatype] for tensor in request.tensors.values())
    assert all(tensor.data.flags.c_contiguous and tensor.data.flags.aligned for tensor in request.tensors.values())


def test_a_kept_json_part_keeps_no_numbers():
    """The same JSON part with other bytes, or with too few, is another request."""
    head = b'{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"binary_data_size":4}}]}'
    for value in (1.0, 2.0):
        found = decode_binary(head + np.float32(value).tobytes(), len(head)).tensors["x"].data
        assert found.tolist() == [value]
    with pytest.raises(MalformedRequest):
        decode_binary(head + b"123", len(head))


def test_answer_names_route_version_variant_and_id_whatever_their_characters():
    """An answer is JSON also with quotes and other alphabets in names."""
    outputs = [Tensor("a", Datatype.FP32, np.array([[0.1]], np.float32)), Tensor("b", Datatype.INT64, np.array([1]))]
    answer = orjson.loads(encode_infer(Request(id='"'), record(*outputs)))
    assert answer == {
        "model_name": 'r"1',
        "model_version": "1",
        "parameters": {"variant": "ä", "prediction_id": "01a1fd45-6800-7000-8000-000000000001"},
        "id": '"',
        "outputs": [
            {"name": "a", "shape": [1, 1], "datatype": "FP32", "data": [0.1]},
            {"name": "b", "shape": [1], "datatype": "INT64", "data": [1]},
        ],
    }


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor("y", Datatype.FP32, np.array([np.inf], np.float32)),
        Tensor("y", Datatype.FP64, np.array([np.nan, -np.inf])),
        Tensor("y", Datatype.FP16, np.array([1], np.float16)),
        Tensor("y", Datatype.BYTES, np.array([b"\xff"], object)),
    ],
)
def test_what_json_cannot_hold_is_refused(tensor):
    """An infinity, FP16 or bytes that are no text are refused in an answer rather than changed."""
    with pytest.raises(MalformedRequest):
        encode_infer(Request(), record(tensor))
    with pytest.raises(MalformedRequest):
        encode_rows(record(tensor))


def test_nan_is_null_and_rows_keep_their_shape():
    """NaN is answered as null; rows lose a last dimension of one, and no other."""
    tensor = Tensor("y", Datatype.FP32, np.array([[np.nan], [0.1]], np.float32))
    assert orjson.loads(encode_rows(record(tensor))) == {"predictions": [None, 0.1]}
    wide = Tensor("p", Datatype.FP64, np.array([[0.5, 0.5], [1.0, 0.0]]))
    label = Tensor("l", Datatype.BYTES, np.array([b"no", b"yes"], object))
    assert orjson.loads(encode_rows(record(wide, label))) == {
        "predictions": [{"p": [0.5, 0.5], "l": "no"}, {"p": [1.0, 0.0], "l": "yes"}]
    }


@given(st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**64 - 1)), max_size=40))
def test_decoded_numbers_are_the_same_however_they_are_packed(values):
    """Numbers come to the same bits, or to the same refusal, whether the body could hold a boolean or not."""

    def decoded(extra):
        tensors = [{"name": name, "shape": [len(values)], "datatype": name, "data": values} for name in ("FP32", "FP64")]
        try:
            found = decode_infer(orjson.dumps({"inputs": tensors, "id": extra})).tensors
        except MalformedRequest as error:
            return str(error)
        return {name: (tensor.data.dtype, tensor.data.tobytes()) for name, tensor in found.items()}

    plain = decoded("")
    assert plain == decoded("true")
    if isinstance(plain, dict):
        assert plain["FP32"][1] == np.array(values, np.float64).astype(np.float32).tobytes()
        assert plain["FP64"][1] == np.array(values, np.float64).tobytes()


@pytest.mark.parametrize("data", [[True, 1.0], [1.0, "2"], [[1.0], [False]], [None, {}], [3.5e38, 1.0], [1.0]])
def test_what_is_no_number_is_refused_in_a_float_tensor(data):
    """Booleans, texts, objects, numbers beyond the type and too few of them are errors, with and without other booleans."""
    for extra in ("", "true"):
        body = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": data}], "id": extra}
        with pytest.raises(MalformedRequest):
            decode_infer(orjson.dumps(body))


@pytest.mark.parametrize("value", ["true", "false"])
@pytest.mark.parametrize(
    "body",
    [
        '{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.5,%s]}]}',
        '{"inputs":[{"d\\u0061ta":[1.5,%s],"name":"data","shape":[2],"datatype":"FP32"}]}',
        '{"inputs":[{"data":[1.5,%s],"name":"x","shape":[2],"datatype":"FP32"},{"name":"y","shape":[0],"datatype":"FP32","data":[]}]}',
        '{"inputs":[{"name":"y","shape":[0],"datatype":"FP32","data":[]},{"name":"x","shape":[2],"datatype":"FP32","data":[%s,1.5]}]}',
        '{"id":"\\"data\\"","inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1.5,[%s]]}]}',
    ],
)
def test_boolean_is_refused_in_a_float_tensor_wherever_it_stands(body, value):
    """Escaped keys, other orders and names that look like keys hide none."""
    decode_infer((body % 2.5).encode())
    with pytest.raises(MalformedRequest, match="takes"):
        decode_infer((body % value).encode())
