"""Compressed bodies over real sockets, with and without binary tensors. Names in brackets are the protocol's requirement ids."""

from __future__ import annotations

import gzip
import itertools
import json
import resource
import zlib

import numpy as np
import pytest
from onnx import TensorProto

PACK = {"gzip": gzip.compress, "deflate": zlib.compress}
UNPACK = {"gzip": gzip.decompress, "deflate": zlib.decompress}
LENGTH = "inference-header-content-length"
BYTES_MAX = 2**20


@pytest.fixture
def served(make_worker, models, until):
    """Return a worker with an identity model whose bodies are bounded at 1 MiB."""
    worker = make_worker(body_bytes_max=BYTES_MAX).start()
    worker.register("m", "1", models.identity(TensorProto.FLOAT), champion=True)
    worker.until_served(until)
    return worker


def body(values: np.ndarray, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """Return a request for values, both ways in the same form, and its headers."""
    tensor = {"name": "x", "datatype": "FP32", "shape": list(values.shape)}
    if not binary:
        return json.dumps({"inputs": [{**tensor, "data": values.ravel().tolist()}]}).encode(), {}
    asked = {**tensor, "parameters": {"binary_data_size": values.nbytes}}
    head = json.dumps({"inputs": [asked], "parameters": {"binary_data_output": True}}).encode()
    return head + values.tobytes(), {LENGTH: str(len(head))}


def infer(served, content: bytes, headers: dict[str, str]) -> tuple[dict[str, str], bytes]:
    """Return headers and body of an answer as they came over the wire."""
    with served.client.stream("POST", "/v2/models/m/infer", content=content, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        return dict(answer.headers), b"".join(answer.iter_raw())


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("count", [1, 1_000, 40_000])
def test_compressed_requests_and_answers_hold_the_same(served, encoding, binary, count):
    """Lengths in headers are of what is inside; small answers go as they are, large ones compressed [OIP-63, 73]."""
    values = np.random.default_rng(1).normal(size=(1, count)).astype(np.float32).round(2)
    content, headers = body(values, binary=binary)
    plain_headers, plain = infer(served, content, {**headers, "Accept-Encoding": "identity"})
    assert "content-encoding" not in plain_headers
    sent = {**headers, "Content-Encoding": encoding, "Accept-Encoding": encoding}
    packed_headers, packed = infer(served, PACK[encoding](content), sent)
    assert (packed_headers.get("content-encoding") == encoding) == (count > 1)
    unpacked = UNPACK[encoding](packed) if count > 1 else packed
    head = len(plain) if not binary else int(plain_headers[LENGTH])
    assert packed_headers.get(LENGTH) == plain_headers.get(LENGTH)
    assert unpacked[head:] == plain[head:] == (values.tobytes() if binary else b"")
    assert json.loads(unpacked[:head])["outputs"] == json.loads(plain[:head])["outputs"]
    assert len(packed) <= len(plain)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_bomb_is_refused_within_the_bound(served, encoding):
    """A body that expands beyond the bound is a 413, and no more of it than that is ever in memory [OIP-63]."""
    bomb = PACK[encoding](b" " * 2**27)
    assert len(bomb) < BYTES_MAX
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in ("/v2/models/m/infer", "/v1/models/m:predict"):
        answer = served.client.post(path, content=bomb, headers={"Content-Encoding": encoding})
        assert (answer.status_code, answer.json().keys()) == (413, {"error"})
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024
    assert served.client.get("/v2/health/live").status_code == 200


@pytest.mark.parametrize("more", [0, 1])
def test_the_bound_is_of_the_expanded_body(served, more):
    """A body of exactly the bound passes, one byte more does not."""
    content, _ = body(np.ones((1, 1), np.float32), binary=False)
    padded = content + b" " * (BYTES_MAX - len(content) + more)
    answer = served.client.post("/v2/models/m/infer", content=gzip.compress(padded), headers={"Content-Encoding": "gzip"})
    assert answer.status_code == (413 if more else 200)


def test_gzip_of_several_members_is_read_as_one(served):
    """Members follow one another, of any sizes, empty ones among them (RFC 1952, 2.2), and the bound is of all together."""
    content, _ = body(np.arange(30_000, dtype=np.float32).reshape(1, -1), binary=False)
    cuts = [0, 1, 1, 9, 70_000, 140_000, len(content)]
    members = b"".join(gzip.compress(content[start:end]) for start, end in itertools.pairwise(cuts))
    headers = {"Content-Encoding": "gzip"}
    answer = served.client.post("/v2/models/m/infer", content=members, headers=headers)
    assert answer.json()["outputs"][0]["data"] == list(range(30_000))
    bomb = members + b"".join([gzip.compress(b" " * 2**16)] * 16)
    assert served.client.post("/v2/models/m/infer", content=bomb, headers=headers).status_code == 413


def test_answers_that_may_be_compressed_say_that_they_vary(served):
    """A cache is told for whom an answer of a kilobyte was made, compressed or not (RFC 9110, 12.5.5); a small one is for all."""
    for count, varies in ((1, None), (1_000, "accept-encoding")):
        content, _ = body(np.ones((1, count), np.float32), binary=False)
        for accepted in ("gzip", "identity", "br"):
            headers, _ = infer(served, content, {"Accept-Encoding": accepted})
            assert headers.get("vary") == varies, (count, accepted)
    request = served.client.build_request("POST", "/v2/models/m/infer", content=content)
    del request.headers["accept-encoding"]
    assert served.client.send(request).headers["vary"] == "accept-encoding"


def test_rows_are_compressed_too(served):
    """Plain rows come and go compressed."""
    content = gzip.compress(json.dumps({"instances": [[1.5] * 1_000]}).encode())
    answer = served.client.post("/v1/models/m:predict", content=content, headers={"Content-Encoding": "gzip"})
    assert (answer.headers["content-encoding"], answer.json()) == ("gzip", {"predictions": [[1.5] * 1_000]})


def test_an_encoding_that_is_not_read_names_those_that_are(served):
    """Another encoding is a 415 that says what is read, before the body is [OIP-51]."""
    answer = served.client.post("/v2/models/m/infer", content=b"x", headers={"Content-Encoding": "br"})
    assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, deflate")


def test_errors_are_plain_json(served):
    """An error is JSON as it is, whatever was asked for [OIP-74]."""
    answer = served.client.post("/v2/models/m/infer", content=b"x" * 5_000, headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.json().keys(), "content-encoding" in answer.headers) == (400, {"error"}, False)
