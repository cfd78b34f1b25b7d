"""The Open Inference Protocol over REST: endpoints, metadata, data types, shapes. Names in brackets are its requirement ids."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto

from gateway.core.tensors import Datatype

NAMES = {
    TensorProto.BOOL: Datatype.BOOL,
    TensorProto.INT8: Datatype.INT8,
    TensorProto.INT32: Datatype.INT32,
    TensorProto.INT64: Datatype.INT64,
    TensorProto.UINT8: Datatype.UINT8,
    TensorProto.UINT64: Datatype.UINT64,
    TensorProto.FLOAT: Datatype.FP32,
    TensorProto.DOUBLE: Datatype.FP64,
    TensorProto.STRING: Datatype.BYTES,
}
EXTREMES = {
    Datatype.BOOL: [True, False],
    Datatype.INT8: [-128, 127],
    Datatype.INT32: [-(2**31), 2**31 - 1],
    Datatype.INT64: [-(2**63), 2**63 - 1],
    Datatype.UINT8: [0, 255],
    Datatype.UINT64: [0, 2**64 - 1],
    Datatype.FP32: [-0.0, float(np.finfo(np.float32).max), float(np.float32(1e-45)), 0.1, None],
    Datatype.FP64: [-0.0, 1.7976931348623157e308, 5e-324, 0.1, None],
    Datatype.BYTES: ["", "\x00", "ä🙂", "x" * 2**20],
}
BEYOND = {
    Datatype.BOOL: [[0], ["true"], [None]],
    Datatype.INT8: [[128], [-129], [1.0], ["1"], [True], [None]],
    Datatype.INT64: [[2**63], [1.5], [2**70]],
    Datatype.UINT8: [[-1], [256]],
    Datatype.UINT64: [[-1], [2**64]],
    Datatype.FP32: [[1e39], [True], ["1"]],
    Datatype.FP64: [[True], [[[]], 1]],
    Datatype.BYTES: [[1], [None]],
}


@pytest.fixture(scope="module")
def served(tmp_path_factory, models, until, start_worker):
    """Return a worker with an identity model for each data type, of shape [n, m]."""
    worker = start_worker(tmp_path_factory.mktemp("protocol"))
    for type, datatype in NAMES.items():
        worker.register(datatype.value, "1", models.identity(type), champion=True)
    worker.register("free", "1", models.identity(TensorProto.FLOAT, ("a", "b", "c", "d")), champion=True)
    worker.register("scalar", "1", models.identity(TensorProto.FLOAT, ()), champion=True)
    worker.register("half", "1", models.identity(TensorProto.FLOAT16), champion=True)
    worker.until_served(until)
    return worker


@pytest.mark.parametrize("path", ["/v2", "/v2/", "/v2?x=1"])
def test_server_metadata(served, path):
    """Name, version and exactly the extensions that work [OIP-4, 14, 17, 23]."""
    body = served.client.get(path).json()
    assert body.keys() == {"name", "version", "extensions"}
    assert body["extensions"] == [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
        "parameters",
        "schedule_policy",
        "statistics",
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/health/live", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/FP32/ready", 200),
        ("/v2/models/FP32/versions/1/ready", 200),
        ("/v2/models/FP32", 200),
        ("/v2/models/FP32/versions/1", 200),
        ("/v2/models/none", 404),
        ("/v2/models/none/ready", 404),
        ("/v2/models/FP32/versions/9", 404),
        ("/v2/models/FP32/versions/9/ready", 404),
        ("/v2/models/FP32/config", 200),
        ("/v2/models/FP32/versions/1/config", 200),
        ("/v2/models/FP32/stats", 200),
        ("/v2/models/FP32/versions/1/stats", 200),
        ("/v2/models/none/config", 404),
        ("/v2/models/FP32/versions/9/config", 404),
        ("/v2/models/none/stats", 404),
        ("/v2/trace/setting", 404),
        ("/v2/models/stats", 200),
        ("/v2/nothing", 404),
        ("/", 200),
        ("/v1/models", 200),
        ("/v1/models/FP32", 200),
        ("/v1/models/none", 404),
        ("/v1/nothing", 404),
    ],
)
def test_endpoints_answer_and_refuse_as_json(served, path, status):
    """Each path answers its status; what fails says `{"error": …}` [OIP-1..5, 13, 15, 50]."""
    answer = served.client.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert (status == 200) or answer.json().keys() == {"error"}


def test_first_version_of_the_protocol_has_its_health(served):
    """Who speaks `/v1` finds out what lives, what there is and what is ready, as KServe's servers say it."""
    assert served.client.get("/").json() == {"status": "alive"}
    assert {"FP32", "INT8"} <= set(served.client.get("/v1/models").json()["models"])
    assert served.client.get("/v1/models/FP32").json() == {"name": "FP32", "ready": True}


GETS = (
    "/",
    "/v1/models/FP32",
    "/v2",
    "/v2/health/live",
    "/v2/models/stats",
    "/v2/models/FP32",
    "/v2/models/FP32/versions/1/config",
)
POSTS = ("/v2/models/FP32/infer", "/v2/repository/index", "/v2/repository/models/FP32/load")


@pytest.mark.parametrize("path", [*GETS, *POSTS])
def test_other_methods_are_refused(served, path):
    """A known path with another method is a 405 with an error and the methods that it takes [OIP-12]."""
    is_post = path in POSTS
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "GET" if is_post else "POST"):
        answer = served.client.request(method, path)
        assert (answer.status_code, answer.json().keys()) == (405, {"error"})
        assert answer.headers["allow"] == ("POST" if is_post else "GET, HEAD")


@pytest.mark.parametrize("path", GETS)
def test_head_answers_as_get_without_a_body(served, path):
    """What can be looked at can be asked for its headers alone, and the connection goes on."""
    got, asked = served.client.get(path), served.client.head(path)
    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-length"] == got.headers["content-length"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2/models/F%5032", 200),
        ("/v2/models/%46%50%33%32/versions/%31/config", 200),
        ("/v2/models/FP32%2Fready", 404),
        ("/v2/models/FP32%2Fversions%2F1", 404),
        ("/v2/models/FP32/versions/%2e%2e%2f1", 404),
        ("/v2/models/%2546P32", 404),
        ("/v2/models/FP32/", 404),
        ("/v2/models/FP32/ready/", 404),
        ("/v2/models//ready", 404),
        ("/v2/models/", 404),
        ("/v2//", 404),
        ("/V2", 404),
        ("/v2/models/FP32/versions/", 404),
        ("/v2/models/FP32?version=9", 200),
    ],
)
def test_paths_are_matched_as_they_were_sent(served, path, status):
    """A name is decoded once and an encoded slash belongs to it; a slash at the end names nothing [OIP-13, 14, 17]."""
    answer = served.raw(b"GET " + path.encode() + b" HTTP/1.1\r\nHost: h\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert (status == 200) or answer.partition(b"\r\n\r\n")[2].startswith(b'{"error":')


def test_model_metadata(served):
    """The signature with its variable dimensions, the warm versions, and what it is [OIP-5, 24..27]."""
    body = served.client.get("/v2/models/FP32").json()
    tensor = {"name": "x", "datatype": "FP32", "shape": [-1, -1]}
    assert (body["name"], body["versions"], body["platform"]) == ("FP32", ["1"], "headgate_onnx")
    assert (body["inputs"], body["outputs"]) == ([tensor], [{**tensor, "name": "y"}])
    assert served.client.get("/v2/models/FP32/versions/1").json()["versions"] == ["1"]


def test_model_configuration(served):
    """`max_batch_size` is the rows that a body can hold, none in `dims`; without rows there are all dimensions [OIP-10]."""
    body = served.client.get("/v2/models/BYTES/config").json()
    assert (body["name"], body["backend"], body["max_batch_size"]) == ("BYTES", "onnx", 2**25)
    assert body["input"] == [{"name": "x", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert body["output"] == [{"name": "y", "data_type": "TYPE_STRING", "dims": [-1]}]
    assert body["parameters"]["version"] == {"string_value": "1"}
    assert ("dynamic_batching" in body, body["parameters"]["batch_rows_max"]) == (True, {"string_value": "64"})
    scalar = served.client.get("/v2/models/scalar/versions/1/config").json()
    assert (scalar["max_batch_size"], scalar["input"][0]["dims"], "dynamic_batching" in scalar) == (0, [], False)


@pytest.mark.parametrize("datatype", EXTREMES, ids=str)
def test_values_survive_to_the_bit(served, datatype):
    """The extremes of each type come back as they went in [OIP-43]."""
    values = EXTREMES[datatype]
    answer = served.infer(datatype.value, values, shape=[1, len(values)], datatype=datatype.value)
    assert answer.status_code == 200, answer.text
    back = answer.json()["outputs"][0]
    assert back["datatype"] == datatype.value
    if datatype in (Datatype.FP32, Datatype.FP64):
        dtype = np.float32 if datatype is Datatype.FP32 else np.float64
        assert np.array(back["data"], dtype).tobytes() == np.array(values, dtype).tobytes()
    else:
        assert back["data"] == values


@pytest.mark.parametrize(("datatype", "values"), [(datatype, values) for datatype, cases in BEYOND.items() for values in cases])
def test_values_beyond_a_type_are_refused(served, datatype, values):
    """No silent cast: out of range, of another kind, or null where that means nothing [OIP-39, 43a, 43b]."""
    answer = served.infer(datatype.value, values, shape=[1, len(values)], datatype=datatype.value)
    assert answer.status_code == 400
    assert answer.json().keys() == {"error"}


def test_types_without_a_json_form_are_refused(served):
    """FP16 and BF16 are refused in JSON requests [OIP-43]."""
    for datatype in ("FP16", "BF16"):
        answer = served.infer("half", [[1.0]], datatype=datatype)
        assert (answer.status_code, "JSON" in answer.json()["error"]) == (400, True)


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ([1, 2, 3, 4], [1, 2, 2, 1]),
        ([[1, 2], [3, 4]], [2, 2, 1, 1]),
        ([[[[1]], [[2]]], [[[3]], [[4]]]], [2, 2, 1, 1]),
        ([1, [2, [3, [4]]]], [4, 1, 1, 1]),
        ([], [0, 2, 2, 2]),
        ([], [2, 0, 1, 1]),
    ],
)
def test_only_order_and_count_of_the_data_matter(served, data, shape):
    """Flat, nested to the shape or in any other way; a zero dimension is legal [OIP-34, 36]."""
    answer = served.infer("free", data, shape=shape)
    assert answer.status_code == 200, answer.text
    output = answer.json()["outputs"][0]
    assert (output["shape"], output["data"]) == (shape, [float(at + 1) for at in range(int(np.prod(shape)))])


def test_nesting_is_bounded(served):
    """Fifty levels pass, a hundred and twenty do not, and the server lives [OIP-37]."""
    for depth, status in ((50, 200), (120, 400)):
        data: object = 1.0
        for _ in range(depth):
            data = [data]
        assert served.infer("FP32", data, shape=[1, 1]).status_code == status


def test_scalar_is_one_element(served):
    """The shape [] holds one element [OIP-34]."""
    output = served.infer("scalar", [7], shape=[]).json()["outputs"][0]
    assert (output["shape"], output["data"]) == ([], [7.0])


def test_id_comes_back_and_is_not_invented(served):
    """A caller's id is echoed; without one there is none [OIP-30, 45]."""
    assert served.infer("FP32", [[1]], id="a b").json()["id"] == "a b"
    assert "id" not in served.infer("FP32", [[1]]).json()


@pytest.mark.parametrize(
    "asked",
    [
        {"parameters": {"sequence_id": 7}},
        {"parameters": {"sequence_start": True}},
        {"outputs": [{"name": "y", "parameters": {"shared_memory_region": "r"}}]},
    ],
)
def test_what_is_not_offered_is_a_501(served, asked):
    """A feature of the protocol that is not there is refused, never ignored [OIP-23, 51]."""
    answer = served.infer("FP32", [[1]], **asked)
    assert (answer.status_code, answer.json().keys()) == (501, {"error"})


@pytest.mark.parametrize(
    "asked",
    [
        {"parameters": {"priority": -1}},
        {"parameters": {"priority": 1.0}},
        {"parameters": {"priority": True}},
        {"parameters": {"priority": "high"}},
        *({"parameters": {"timeout": timeout}} for timeout in (False, True, "", "5", None, [], -1, -0.5, 10**16)),
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"binary_data_output": "true"}},
        {"parameters": {"triton_x": 1}},
        {"parameters": {"mine": None}},
        {"parameters": {"mine": [1]}},
        {"parameters": []},
        {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": -1}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": 1.0}}]},
        {"outputs": [{"name": "y", "parameters": {"classification": True}}]},
        {"outputs": [{"name": "y", "parameters": [1]}]},
        {"outputs": [{"name": "y"}, {"name": "y"}]},
        {"outputs": [{"name": "z"}]},
    ],
)
def test_parameters_of_other_types_are_refused(served, asked):
    """A reserved parameter of another type, or a value that is no string, number or boolean, is a 400 [OIP-32, 41]."""
    answer = served.infer("FP32", [[1]], **asked)
    assert (answer.status_code, answer.json().keys()) == (400, {"error"})


def test_timeout_that_is_none_or_no_time_is_told_apart(served):
    """0 is the protocol's default and shortens nothing; what is no number of microseconds is refused by its name [OIP-41, 51]."""
    assert served.infer("FP32", [[1]], parameters={"timeout": 0}).status_code == 200
    for wrong in (False, "", None, -1):
        answer = served.infer("FP32", [[1]], parameters={"timeout": wrong})
        assert answer.status_code == 400
        assert answer.json()["error"].startswith("parameters.timeout: expected ")


def test_harmless_parameters_and_members_pass(served):
    """Unknown members and parameters of simple types are ignored [OIP-31, 41]."""
    answer = served.infer(
        "FP32", [[1]], model_name="x", parameters={"mine": "a", "n": 1, "f": 0.5, "b": True, "timeout": 5_000_000}
    )
    assert answer.status_code == 200
