"""Binary tensors over real sockets, both ways and in every data type. Names in brackets are the protocol's requirement ids."""

from __future__ import annotations

import itertools
import json
import math
import struct

import numpy as np
import pytest
from onnx import TensorProto, helper

from gateway.core.tensors import NUMPY_DTYPES, Datatype

TYPES = {
    TensorProto.BOOL: Datatype.BOOL,
    TensorProto.INT8: Datatype.INT8,
    TensorProto.INT16: Datatype.INT16,
    TensorProto.INT32: Datatype.INT32,
    TensorProto.INT64: Datatype.INT64,
    TensorProto.UINT8: Datatype.UINT8,
    TensorProto.UINT16: Datatype.UINT16,
    TensorProto.UINT32: Datatype.UINT32,
    TensorProto.UINT64: Datatype.UINT64,
    TensorProto.FLOAT16: Datatype.FP16,
    TensorProto.FLOAT: Datatype.FP32,
    TensorProto.DOUBLE: Datatype.FP64,
    TensorProto.STRING: Datatype.BYTES,
}
TEXTS = [b"", b"\0", b"a\0b", "ä🙂".encode(), b"x" * 2**20]
LENGTH = "inference-header-content-length"


def extremes(datatype: Datatype) -> np.ndarray:
    """Return what JSON can hold of a datatype: its ends, zeros of both signs, subnormals, NaN."""
    dtype = NUMPY_DTYPES[datatype]
    match dtype.kind:
        case "O":
            return np.array(TEXTS, object)
        case "b":
            return np.array([True, False])
        case "f":
            found = np.finfo(dtype)
            return np.array([0.0, -0.0, 0.1, found.max, found.min, found.smallest_subnormal, found.tiny, np.nan], dtype)
        case _:
            return np.array([np.iinfo(dtype).min, np.iinfo(dtype).max, 1], dtype)


def blob(values: np.ndarray) -> bytes:
    """Return the binary form of an array."""
    if values.dtype.kind != "O":
        return values.tobytes()
    return b"".join(struct.pack("<I", len(text)) + text for text in values.ravel().tolist())


def request(inputs: list[dict], blobs: bytes = b"", **more: object) -> tuple[bytes, dict[str, str]]:
    """Return a body and its headers."""
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + blobs, ({LENGTH: str(len(head))} if blobs else {})


def asked(values: np.ndarray, *, binary: bool, name: str = "x", shape: list[int] | None = None) -> tuple[dict, bytes]:
    """Return an input and the bytes that follow for it."""
    datatype = next(kind for kind, dtype in NUMPY_DTYPES.items() if dtype == values.dtype)
    tensor = {"name": name, "datatype": datatype.value, "shape": list(values.shape) if shape is None else shape}
    if binary:
        return {**tensor, "parameters": {"binary_data_size": len(blob(values))}}, blob(values)
    plain = [
        v.decode() if isinstance(v, bytes) else None if isinstance(v, float) and math.isnan(v) else v
        for v in values.ravel().tolist()
    ]
    return {**tensor, "data": plain}, b""


def answered(answer) -> dict[str, np.ndarray]:
    """Return the outputs of an answer by name, whatever their form."""
    assert answer.status_code == 200, answer.text
    length = answer.headers.get(LENGTH)
    content = answer.content
    head = content if length is None else content[: int(length)]
    assert answer.headers["content-type"] == ("application/json" if length is None else "application/octet-stream")
    at, found = len(head), {}
    for output in json.loads(head)["outputs"]:
        dtype = NUMPY_DTYPES[Datatype(output["datatype"])]
        assert ("data" in output) != ("binary_data_size" in output.get("parameters", {}))
        if "data" in output:
            values = [v.encode() if isinstance(v, str) else v for v in output["data"]]
            array = np.empty(len(values), dtype)
            array[:] = values
        else:
            end = at + output["parameters"]["binary_data_size"]
            array = parsed(content[at:end], dtype)
            at = end
        found[output["name"]] = array.reshape(output["shape"])
    assert at == len(content)
    return found


def parsed(content: bytes, dtype: np.dtype) -> np.ndarray:
    """Return the flat array of a binary output."""
    if dtype.kind != "O":
        return np.frombuffer(content, dtype)
    texts, at = [], 0
    while at < len(content):
        (size,) = struct.unpack_from("<I", content, at)
        texts.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return np.array(texts, object)


def bits(values: np.ndarray) -> object:
    """Return what must survive."""
    return values.dtype, values.shape, values.tolist() if values.dtype.kind == "O" else values.tobytes()


@pytest.fixture(scope="module")
def served(tmp_path_factory, models, until, start_worker):
    """Return a worker with an identity model for each data type, and some of other shapes."""
    worker = start_worker(tmp_path_factory.mktemp("binary"))
    for kind, datatype in TYPES.items():
        worker.register(datatype.value, "1", models.identity(kind), champion=True)
    real, text = TensorProto.FLOAT, TensorProto.STRING
    worker.register("wide", "1", models.identity(real, ("n", 4)), columns=["a", "b", "c", "d"], champion=True)
    worker.register("deep", "1", models.identity(real, tuple("abcdefgh")), champion=True)
    worker.register("scalar", "1", models.identity(real, ()), champion=True)
    worker.register("text", "1", models.identity(text, ("n", 1)), champion=True)
    worker.register("fixed text", "1", models.identity(text, (2,)), champion=True)
    names = ["a", "b", "c"]
    nodes = [helper.make_node("Identity", [name], [f"{name}2"]) for name in names]
    sides = [[(name + end, real, ["n", "m"]) for name in names] for end in ("", "2")]
    worker.register("three", "1", models.graph(nodes, *sides), champion=True)
    worker.register("BF16", "1", models.identity(TensorProto.BFLOAT16), champion=True)
    worker.register("doubled", "1", models.doubled_bf16(), champion=True)
    worker.until_served(until)
    return worker


def infer(served, model: str, content: tuple[bytes, dict[str, str]], **headers: str):
    """Send a request."""
    return served.client.post(f"/v2/models/{model}/infer", content=content[0], headers={**content[1], **headers})


@pytest.mark.parametrize("ways", list(itertools.product((False, True), repeat=2)), ids=str)
@pytest.mark.parametrize("datatype", TYPES.values(), ids=str)
def test_every_datatype_survives_in_every_combination(served, datatype, ways):
    """JSON or binary in, JSON or binary out: the extremes of a type come back to the bit [OIP-43, 64, 65, 70, 71]."""
    values = extremes(datatype).reshape(1, -1)
    tensor, content = asked(values, binary=ways[0])
    answer = infer(served, datatype.value, request([tensor], content, parameters={"binary_data_output": ways[1]}))
    if datatype is Datatype.FP16 and not all(ways):
        assert (answer.status_code, "FP16 has no JSON form" in answer.json()["error"]) == (400, True)
        return
    assert bits(answered(answer)["y"]) == bits(values)


@pytest.mark.parametrize("datatype", [Datatype.FP16, Datatype.FP32, Datatype.FP64], ids=str)
def test_every_bit_pattern_of_floats_survives_binary(served, datatype):
    """Infinities and NaN of any payload pass both ways, and into the log [OIP-43b]."""
    dtype = NUMPY_DTYPES[datatype]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top = int(np.array(np.inf, dtype).view(unsigned))
    patterns = [top, top + 1, (1 << 8 * dtype.itemsize) - 1, 1, 1 << (8 * dtype.itemsize - 1)]
    values = np.array(patterns, unsigned).view(dtype).reshape(1, -1)
    tensor, content = asked(values, binary=True)
    answer = infer(served, datatype.value, request([tensor], content, parameters={"binary_data_output": True}))
    assert bits(answered(answer)["y"]) == bits(values)
    assert bits(served.predictions()[-1].inputs[0].data) == bits(values)
    plain = infer(served, datatype.value, request([tensor], content))
    assert (plain.status_code, "ask for binary" in plain.json()["error"]) == (400, True)


def test_bytes_that_are_no_text_are_the_callers_fault(served):
    """Models take text: other bytes are a 400, and no version is blamed [OIP-43c]."""
    for elements in ([b"\xff"], [b"ok", b"\xed\xa0\x80"]):
        tensor, content = asked(np.array([elements], object), binary=True)
        answer = infer(served, "BYTES", request([tensor], content))
        assert (answer.status_code, "UTF-8" in answer.json()["error"]) == (400, True)


BF16 = [0x0000, 0x8000, 0x3F80, 0xC2F7, 0x7F7F, 0x0001, 0x7F80, 0xFF80, 0x7FC1, 0xFF81]  # ends, infinities, NaN of any payload


def bf16(patterns: list[int], **parameters: object) -> tuple[bytes, dict[str, str]]:
    """Return a request of one row of BF16 in binary."""
    content = struct.pack(f"<{len(patterns)}H", *patterns)
    tensor = {"name": "x", "datatype": "BF16", "shape": [1, len(patterns)], "parameters": {"binary_data_size": len(content)}}
    return request([tensor], content, parameters=parameters)


def test_every_bit_pattern_of_bf16_survives_binary(served):
    """BF16 comes back to the bit, and the log holds the FP32 numbers that it equals [OIP-65]."""
    answer = infer(served, "BF16", bf16(BF16, binary_data_output=True))
    assert answer.status_code == 200, answer.text
    head = json.loads(answer.content[: int(answer.headers[LENGTH])])
    [output] = head["outputs"]
    assert (output["datatype"], output["shape"], output["parameters"]) == ("BF16", [1, 10], {"binary_data_size": 20})
    assert answer.content[int(answer.headers[LENGTH]) :] == struct.pack("<10H", *BF16)
    logged = served.predictions()[-1]
    for tensor in (*logged.inputs, *logged.outputs):
        assert (tensor.datatype, tensor.data.dtype, tensor.data.shape) == (Datatype.BF16, np.float32, (1, 10))
        assert (tensor.data.view(np.uint32) >> 16).tolist() == [BF16]


def test_bf16_is_what_a_model_computes_with(served):
    """A model gets the numbers that were sent and its answer is what it said, also for a raw body and for no rows."""
    one, three = 0x3F80, 0x4040
    answer = infer(served, "doubled", bf16([one, three], binary_data_output=True))
    assert answer.content[int(answer.headers[LENGTH]) :] == struct.pack("<2H", 0x4000, 0x40C0)
    raw = infer(served, "doubled", (struct.pack("<2H", three, one), {LENGTH: "0"}))
    assert raw.content[int(raw.headers[LENGTH]) :] == struct.pack("<2H", 0x40C0, 0x4000)
    empty = infer(served, "doubled", bf16([], binary_data_output=True))
    assert (empty.status_code, empty.json()["outputs"][0]["shape"]) == (200, [1, 0])


def test_bf16_has_no_json_form(served):
    """BF16 in JSON, either way, or in another number of bytes is a 400 that says what to do [OIP-43]."""
    tensor = {"name": "x", "datatype": "BF16", "shape": [1, 1]}
    for content, told in (
        (request([{**tensor, "data": [1.0]}]), "send it as a binary tensor"),
        (bf16([0x3F80]), "ask for binary"),
        (request([{**tensor, "parameters": {"binary_data_size": 4}}], b"\0\0\x80\x3f"), "needs 2 bytes, got 4"),
    ):
        answer = infer(served, "BF16", content)
        assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0), (1, 2, 3, 1, 2, 1, 2, 2)], ids=str)
def test_shapes_survive_binary(served, shape):
    """A scalar, no elements and eight dimensions come back exactly; nothing follows where there is nothing [OIP-34, 68, 72]."""
    values = np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
    model = {0: "scalar", 2: "FP32", 8: "deep"}[len(shape)]
    tensor, content = asked(values, binary=True)
    answer = infer(served, model, request([tensor], content, parameters={"binary_data_output": True}))
    if not values.size:
        assert LENGTH not in answer.headers
        assert answer.json()["outputs"][0]["parameters"] == {"binary_data_size": 0}
    assert bits(answered(answer)["y"]) == bits(values)


def test_texts_without_elements(served):
    """No strings are no bytes, and a lone empty string is its length."""
    for values in (np.empty((1, 0), object), np.array([[b""]], object)):
        tensor, content = asked(values, binary=True)
        answer = infer(served, "BYTES", request([tensor], content, parameters={"binary_data_output": True}))
        assert bits(answered(answer)["y"]) == bits(values)


@pytest.mark.parametrize("padding", range(8))
def test_blobs_may_begin_anywhere(served, padding):
    """Numbers that are not aligned within the body come back all the same."""
    values = np.array([[0.1, -0.0, 5e-324]])
    tensor, content = asked(values, binary=True)
    answer = infer(served, "FP64", request([tensor], content, id="x" * padding, parameters={"binary_data_output": True}))
    assert bits(answered(answer)["y"]) == bits(values)


def test_binary_and_json_inputs_mix(served):
    """Two binary inputs around one in JSON; outputs come in the order asked, each in its own form [OIP-32, 69]."""
    values = {name: np.array([[at, at + 0.5]], np.float32) for at, name in enumerate("abc")}
    parts = [asked(values[name], binary=name != "b", name=name) for name in "abc"]
    wanted = [
        {"name": "c2", "parameters": {"binary_data": True}},
        {"name": "a2"},
        {"name": "b2", "parameters": {"binary_data": True}},
    ]
    answer = infer(served, "three", request([part[0] for part in parts], b"".join(part[1] for part in parts), outputs=wanted))
    found = answered(answer)
    assert list(found) == ["c2", "a2", "b2"]
    assert all(found[f"{name}2"].tolist() == values[name].tolist() for name in "abc")
    assert json.loads(answer.content[: int(answer.headers[LENGTH])])["outputs"][1]["data"] == [0.0, 0.5]


@pytest.mark.parametrize("default", [None, False, True])
@pytest.mark.parametrize("own", [None, False, True])
def test_an_outputs_own_setting_wins(served, default, own):
    """`binary_data` decides for its output, else `binary_data_output`, else JSON [OIP-70]."""
    tensor, content = asked(np.ones((1, 1), np.float32), binary=False)
    more: dict[str, object] = {} if default is None else {"parameters": {"binary_data_output": default}}
    more["outputs"] = [{"name": "y"} if own is None else {"name": "y", "parameters": {"binary_data": own}}]
    answer = infer(served, "FP32", request([tensor], content, **more))
    assert (LENGTH in answer.headers) == bool(default if own is None else own)
    assert answered(answer)["y"].tolist() == [[1.0]]


FOUR = np.array([[1, 2, 3, 4]], np.float32)
GOOD, BLOB = asked(FOUR, binary=True)
HEAD = json.dumps({"inputs": [GOOD]}).encode()


@pytest.mark.parametrize(
    ("length", "body", "told"),
    [
        ("abc", HEAD + BLOB, "Inference-Header-Content-Length"),
        ("-1", HEAD + BLOB, "Inference-Header-Content-Length"),
        ("1.0", HEAD + BLOB, "Inference-Header-Content-Length"),
        ("99999999999", HEAD + BLOB, "Inference-Header-Content-Length"),
        ("9" * 400, HEAD + BLOB, "Inference-Header-Content-Length"),
        (str(len(HEAD + BLOB) + 1), HEAD + BLOB, "Inference-Header-Content-Length"),
        (str(len(HEAD) - 1), HEAD + BLOB, "JSON"),
        (str(len(HEAD) + 1), HEAD + BLOB, "JSON"),
        (str(len(HEAD)), HEAD + BLOB[:-1], "expecting 1 additional bytes"),
        (str(len(HEAD)), HEAD, "expecting 16 additional bytes"),
        (str(len(HEAD)), HEAD + BLOB + b"x", "unexpected additional input data"),
    ],
)
def test_wrong_framing_is_refused(served, length, body, told):
    """A length that is none, or that does not fit the body, and blobs that are too short or too long are a 400 [OIP-62, 67]."""
    answer = infer(served, "wide", (body, {LENGTH: length}))
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text
    assert answered(infer(served, "wide", (HEAD + BLOB, {LENGTH: str(len(HEAD))})))["y"].tolist() == FOUR.tolist()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"parameters": {"binary_data_size": 15}}, "mismatch"),
        ({"parameters": {"binary_data_size": 17}}, "additional bytes"),
        ({"parameters": {"binary_data_size": -16}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": 16.0}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": "16"}}, "binary_data_size"),
        ({"parameters": {"binary_data_size": True}}, "binary_data_size"),
        ({"data": [1, 2, 3, 4]}, "not both"),
        ({"parameters": {}}, "data"),
        ({"shape": [1, 3]}, "mismatch"),
        ({"shape": [2**62, 4]}, "elements"),
        ({"shape": [4, 2**60 + 2]}, "elements"),
        ({"shape": [-1, 4]}, "shape"),
        ({"shape": [4, 1]}, "expected shape"),
        ({"datatype": "INT32"}, "expected FP32"),
        ({"datatype": "FP64"}, "mismatch"),
        ({"datatype": "BYTES"}, "string elements"),
        ({"datatype": "FLOAT"}, "datatype"),
        ({"datatype": None}, "datatype"),
    ],
)
def test_wrong_binary_inputs_are_refused(served, change, told):
    """Size, shape and datatype of a binary input must agree with each other and with the version [OIP-35, 38, 39, 66]."""
    answer = infer(served, "wide", request([{**GOOD, **change}], BLOB))
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\x01\0\0\0", b"\x00\0\0\0" * 2, b"\x05\0\0\0abc", b"\x01\0\0\0abc", b"\xff\xff\xff\xffa"],
)
def test_wrong_string_elements_are_refused(served, content):
    """Strings must be as many as the shape says and end where the blob does [OIP-66]."""
    tensor = {"name": "x", "datatype": "BYTES", "shape": [1, 1], "parameters": {"binary_data_size": len(content)}}
    answer = infer(served, "BYTES", request([tensor], content))
    assert (answer.status_code, "1 string elements" in answer.json()["error"]) == (400, True), answer.text


def test_a_bool_is_a_byte_of_zero_or_one(served):
    """Other bytes are no boolean [OIP-65]."""
    tensor = {"name": "x", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
    assert infer(served, "BOOL", request([tensor], b"\1\2")).status_code == 400


def test_a_length_of_the_whole_body_is_plain_json(served):
    """The header may come without binary tensors, and no header is needed for none [OIP-61]."""
    tensor, _ = asked(FOUR, binary=False)
    body, _ = request([tensor])
    assert answered(infer(served, "wide", (body, {LENGTH: str(len(body))})))["y"].tolist() == FOUR.tolist()
    without = infer(served, "wide", (HEAD, {}))
    assert (without.status_code, "expecting 16 additional bytes" in without.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("model", "content", "expected"),
    [
        ("wide", BLOB, FOUR),
        ("FP32", BLOB + BLOB, np.tile(FOUR, 2)),
        ("FP32", b"", np.empty((1, 0), np.float32)),
        ("scalar", BLOB[:4], np.array(1, np.float32)),
        ("FP16", b"\x00\x3c", np.array([[1]], np.float16)),
        ("text", "ä\0".encode(), np.array([["ä\0".encode()]], object)),
        ("text", b"", np.array([[b""]], object)),
    ],
)
def test_a_raw_body_is_the_only_input(served, model, content, expected):
    """With a header of 0 the body is one row of the only input, and all outputs are binary [OIP-75]."""
    found = answered(infer(served, model, (content, {LENGTH: "0"})))
    assert bits(found["y"]) == bits(expected)


@pytest.mark.parametrize(
    ("model", "content", "told"),
    [
        ("wide", BLOB[:-1], "mismatch"),
        ("wide", BLOB * 2, "mismatch"),
        ("wide", b"", "mismatch"),
        ("FP32", BLOB[:-1], "mismatch"),
        ("three", BLOB, "has 3"),
        ("deep", BLOB, "several open dimensions"),
        ("fixed text", b"a", "one element"),
        ("text", b"\xff", "UTF-8"),
        ("BOOL", b"\2", "0 and 1"),
    ],
)
def test_a_raw_body_that_does_not_fit_is_refused(served, model, content, told):
    """Several inputs or open dimensions, and bytes that are no whole elements, are a 400 [OIP-75]."""
    answer = infer(served, model, (content, {LENGTH: "0"}))
    assert (answer.status_code, told in answer.json()["error"]) == (400, True), answer.text


def test_rows_have_no_binary_form(served):
    """Plain rows are JSON alone, and say so."""
    url, body = "/v1/models/wide:predict", b'{"instances":[[1,2,3,4]]}'
    for length, status in ((len(body), 200), (0, 501), (3, 501), ("x", 400)):
        assert served.client.post(url, content=body, headers={LENGTH: str(length)}).status_code == status
    asked = {"instances": [[1, 2, 3, 4]], "parameters": {"binary_data_output": True}}
    assert served.client.post(url, json=asked).status_code == 501


def test_chunks_make_no_difference(served):
    """A binary request in chunks is the same request [OIP-60]."""
    head = (
        f"POST /v2/models/wide/infer HTTP/1.1\r\nHost: h\r\n{LENGTH}: {len(HEAD)}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    )
    parts = [HEAD[:10], HEAD[10:] + BLOB[:3], BLOB[3:]]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert b'"data":[1.0,2.0,3.0,4.0]' in served.raw(head, chunks)


def test_an_assignment_by_input_reads_raw_bodies(served, until):
    """A key within the tensor is found in binary and raw bodies as it is in JSON, so that a caller stays on its variant."""
    variants = [{"name": "only", "version": "1", "weight": 10_000}]
    served.route("keyed", {"model": "wide", "variants": variants, "assignment": {"input": "b"}})
    served.until_served(until)
    tensor, content = asked(FOUR, binary=False)
    for sent in (request([tensor], content), (HEAD + BLOB, {LENGTH: str(len(HEAD))}), (BLOB, {LENGTH: "0"})):
        assert infer(served, "keyed", sent).status_code == 200
    keys = {(record.assignment_key, record.is_keyed) for record in served.predictions()[-3:]}
    assert (len(keys), keys.pop()[1]) == (1, True)


@pytest.mark.parametrize("binary", [False, True])
def test_classification_names_the_highest_values(served, binary):
    """An output becomes its best classes, a row of them for each row, as JSON or binary."""
    values = np.array([[0.1, 0.7, 0.2, 0.0], [1.0, 0.0, 0.0, 0.5]], np.float32)
    tensor, content = asked(values, binary=binary)
    wanted = [{"name": "y", "parameters": {"classification": 2, "binary_data": binary}}]
    found = answered(infer(served, "wide", request([tensor], content, outputs=wanted)))["y"]
    assert found.tolist() == [[b"0.7:1", b"0.2:2"], [b"1.0:0", b"0.5:3"]]
    tensor, content = asked(np.array([[b"a"]], object), binary=binary)
    refused = infer(served, "text", request([tensor], content, outputs=wanted))
    assert (refused.status_code, "classification" in refused.json()["error"]) == (400, True)
