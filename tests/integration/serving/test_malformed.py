"""Requests that are wrong, over a real socket: each gets a 4xx with `{"error": …}`, and predictions stay right afterwards."""

from __future__ import annotations

import gzip
import json
import socket
import zlib

import pytest

GOOD = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]}
INFER = "/v2/models/m/infer"
HEAD = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n"
CHUNKED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(json.dumps(GOOD)), json.dumps(GOOD).encode())


def tensor(**changes: object) -> dict[str, object]:
    """Return a good request with its tensor changed; None removes a member."""
    changed = {**GOOD["inputs"][0], **changes}
    return {"inputs": [{name: value for name, value in changed.items() if value is not None}]}


def post(body: object, path: str = INFER, **headers: str) -> bytes:
    """Return a request's bytes."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "Host: h", f"Content-Length: {len(content)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


# Well-formed HTTP: the connection must stay usable.
CONTENT = {
    "empty body": post(b""),
    "truncated JSON": post(b'{"inputs": [{"name": "x", "shape": [1,'),
    "no JSON": post(b"hello"),
    "not UTF-8": post(b'{"inputs": "\xff\xfe"}'),
    "lone surrogate": post(b'{"inputs": [], "id": "\\ud800"}'),
    "NaN token": post(b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,NaN]}]}'),
    "Infinity token": post(b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,Infinity]}]}'),
    "1e400": post(b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,1e400]}]}'),
    "2**70 in INT64": post(tensor(datatype="INT64", data=[1, 2, 3, 2**70])),
    "1e39 in FP32": post(tensor(data=[1, 2, 3, 1e39])),
    "2**200 in FP32": post(tensor(data=[1, 2, 3, 2**200])),
    "an array": post([GOOD]),
    "a number": post(b"17"),
    "null": post(b"null"),
    "a deep array": post(b"[" * 100_000 + b"]" * 100_000),
    "a deep object": post(b'{"a":' * 2_000 + b"1" + b"}" * 2_000),
    "deep data": post(
        b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":' + b"[" * 120 + b"1" + b"]" * 120 + b"}]}"
    ),
    "deep data on one side": post(tensor(data=[1, 2, 3, json.loads("[" * 110 + "4" + "]" * 110)])),
    "no inputs": post({}),
    "null inputs": post({"inputs": None}),
    "empty inputs": post({"inputs": []}),
    "inputs an object": post({"inputs": {"x": 1}}),
    "an input that is no object": post({"inputs": [1]}),
    "no name": post(tensor(name=None)),
    "a number as name": post(tensor(name=7)),
    "unknown input": post(tensor(name="z")),
    "duplicate input": post({"inputs": GOOD["inputs"] * 2}),
    "one input too many": post({"inputs": [*GOOD["inputs"], {**GOOD["inputs"][0], "name": "z"}]}),
    "no shape": post(tensor(shape=None)),
    "shape a number": post(tensor(shape=4)),
    "negative size": post(tensor(shape=[-1, 4])),
    "float size": post(tensor(shape=[1.0, 4])),
    "bool size": post(tensor(shape=[True, 4])),
    "string size": post(tensor(shape=["1", 4])),
    "huge size": post(tensor(shape=[2**70, 4])),
    "overflowing product": post(tensor(shape=[16, 2**60 + 2])),
    "empty and huge": post(tensor(shape=[0, 2**62, 2**62], data=[])),
    "rank 1": post(tensor(shape=[4])),
    "rank 3": post(tensor(shape=[1, 1, 4])),
    "rank 100": post(tensor(shape=[1] * 99 + [4])),
    "five columns": post(tensor(shape=[1, 5], data=[1, 2, 3, 4, 5])),
    "too few values": post(tensor(data=[1, 2, 3])),
    "too many values": post(tensor(data=[1, 2, 3, 4, 5])),
    "no datatype": post(tensor(datatype=None)),
    "unknown datatype": post(tensor(datatype="FLOAT")),
    "datatype an array": post(tensor(datatype=["FP32"])),
    "other datatype": post(tensor(datatype="FP64")),
    "integers for floats": post(tensor(datatype="INT64")),
    "FP16 in JSON": post(tensor(datatype="FP16")),
    "BF16": post(tensor(datatype="BF16")),
    "no data": post(tensor(data=None)),
    "data a number": post(tensor(data=1)),
    "data a string": post(tensor(data="1234")),
    "data an object": post(tensor(data={"a": 1})),
    "a string among numbers": post(tensor(data=[1, 2, 3, "4"])),
    "a bool among numbers": post(tensor(data=[1, 2, 3, True])),
    "an object among numbers": post(tensor(data=[1, 2, 3, {}])),
    "id a number": post({**GOOD, "id": 7}),
    "outputs an object": post({**GOOD, "outputs": {"name": "y"}}),
    "outputs an empty object": post({**GOOD, "outputs": {}}),
    "outputs an empty text": post({**GOOD, "outputs": ""}),
    "outputs zero": post({**GOOD, "outputs": 0}),
    "outputs false": post({**GOOD, "outputs": False}),
    "outputs of numbers": post({**GOOD, "outputs": [1]}),
    "unknown output": post({**GOOD, "outputs": [{"name": "zz"}]}),
    "duplicate output": post({**GOOD, "outputs": [{"name": "y"}, {"name": "y"}]}),
    "parameters an array": post({**GOOD, "parameters": [1]}),
    "a parameter that is an object": post({**GOOD, "parameters": {"a": {}}}),
    "a null parameter": post({**GOOD, "parameters": {"a": None}}),
    "a reserved parameter": post({**GOOD, "parameters": {"triton_x": 1}}),
    "timeout a string": post({**GOOD, "parameters": {"timeout": "soon"}}),
    "negative timeout": post({**GOOD, "parameters": {"timeout": -1}}),
    "rows without instances": post({"rows": [[1, 2, 3, 4]]}, "/v1/models/m:predict"),
    "rows of numbers": post({"instances": [1, 2, 3, 4]}, "/v1/models/m:predict"),
    "unknown model": post(GOOD, "/v2/models/unknown/infer"),
    "unknown version": post(GOOD, "/v2/models/m/versions/77/infer"),
    "path traversal": post(GOOD, "/v2/models/../../etc/passwd/infer"),
    "quoted path traversal": post(GOOD, "/v2/models/..%2F..%2Fetc%2Fpasswd/infer"),
    "traversal in the version": post(GOOD, "/v2/models/m/versions/..%2f..%2fregistry.db/infer"),
    "NUL in the name": post(GOOD, "/v2/models/m%00/infer"),
    "an endless name": post(GOOD, "/v2/models/" + "m" * 10_000 + "/infer"),
    "unknown path": post(GOOD, "/v3/models/m/infer"),
    "wrong method": b"GET /v2/models/m/infer HTTP/1.1\r\nHost: h\r\n\r\n",
    "wrong method on health": b"DELETE /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n",
    "compressed otherwise": post(b"\x1f\x8b\x08", Content_Encoding="br"),
    "compressed twice": post(b"\x1f\x8b\x08", Content_Encoding="gzip, deflate"),
    "cut gzip": post(gzip.compress(json.dumps(GOOD).encode())[:-1], Content_Encoding="gzip"),
    "more after gzip": post(gzip.compress(json.dumps(GOOD).encode()) + b"x", Content_Encoding="gzip"),
    "gzip of two": post(gzip.compress(b"{") + gzip.compress(b"}"), Content_Encoding="gzip"),
    "gzip of two, the second cut": post(gzip.compress(b"{") + gzip.compress(b"}")[:-1], Content_Encoding="gzip"),
    "gzip of 10,001": post(gzip.compress(b"") * 10_000 + gzip.compress(b"{}"), Content_Encoding="gzip"),
    "deflate of two": post(zlib.compress(b"{") + zlib.compress(b"}"), Content_Encoding="deflate"),
    "no gzip": post(GOOD, Content_Encoding="gzip"),
    "gzip for deflate": post(gzip.compress(json.dumps(GOOD).encode()), Content_Encoding="deflate"),
    "deflate without its wrapper": post(zlib.compress(json.dumps(GOOD).encode())[2:-4], Content_Encoding="deflate"),
    "header length of letters": post(GOOD, Inference_Header_Content_Length="abc"),
    "negative header length": post(GOOD, Inference_Header_Content_Length="-1"),
    "header length beyond the body": post(GOOD, Inference_Header_Content_Length="99999999999"),
    "header length of 5,000 digits": post(GOOD, Inference_Header_Content_Length="9" * 5_000),
    "header length of 5,000 zeros": post(GOOD, Inference_Header_Content_Length="0" * 5_000),
    "chunked truncated JSON": HEAD + b'Transfer-Encoding: chunked\r\n\r\n3\r\n{"i\r\n0\r\n\r\n',
    "a form": post(b"inputs=1", Content_Type="application/x-www-form-urlencoded"),
    "ground truth without a token": post({"records": []}, "/api/v1/ground-truth"),
    "ground truth with a wrong token": post({"records": []}, "/api/v1/ground-truth", Authorization="Bearer wrong"),
}

# Broken HTTP: the connection may close after the answer.
FRAMING = {
    "no HTTP": b"hello\r\n\r\n",
    "unknown method": b"FETCH /v2 HTTP/1.1\r\nHost: h\r\n\r\n",
    "no version": b"GET /v2\r\n\r\n",
    "HTTP/3.0": b"GET /v2 HTTP/3.0\r\n\r\n",
    "a binary hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "header without a colon": b"GET /v2 HTTP/1.1\r\nHost h\r\n\r\n",
    "space before the colon": b"GET /v2 HTTP/1.1\r\nHost : h\r\n\r\n",
    "length of letters": HEAD + b"Content-Length: ten\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "length of 30 digits": HEAD + b"Content-Length: 999999999999999999999999999999\r\n\r\n",
    "length of 5,000 zeros": HEAD + b"Content-Length: " + b"0" * 5_000 + b"\r\n\r\n",
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /v2/models/m/infer HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKED,
    "chunked twice": HEAD + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + CHUNKED,
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /v2 HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
    "two hosts in HTTP/1.0": b"GET /v2 HTTP/1.0\r\nHost: h\r\nHost: h\r\n\r\n",
    "a path that is no UTF-8": post(GOOD, "/v2/models/%ff/infer"),
    "a surrogate in the path": post(GOOD, "/v2/models/%ed%a0%80/infer"),
    "a path that is not quoted": post(GOOD).replace(b"models/m/", b"models/\xc3\xa9/"),
    "a tunnel": b"CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n",
    "chunk size of letters": HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n",
    "chunk longer than said": HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n0\r\n\r\n",
    "header of 100 KB": b"GET /v2 HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "a control character in a header": b"GET /v2 HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
    "a body over the bound": HEAD + b"Content-Length: 1000000000\r\n\r\n{",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory, models, until, start_worker):
    """Return a worker with a linear model of 4 features as the champion of `m`."""
    worker = start_worker(tmp_path_factory.mktemp("malformed"))
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    return worker


def _refused(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split()[1])
    assert 400 <= status < 500, answer
    assert b"content-type: application/json" in head.lower()
    error = json.loads(body)
    assert isinstance(error["error"], str)
    assert error.keys() <= {"error", "hint"}
    return status


def _is_right(answer: bytes) -> bool:
    return answer.startswith(b"HTTP/1.1 200") and json.loads(answer.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] == [10.0]


@pytest.mark.parametrize("case", CONTENT)
def test_malformed_request_is_refused_and_the_connection_goes_on(served, receive, case):
    """A request that is wrong is refused, and the next one on the same connection and on a fresh one is answered right."""
    before = len(served.predictions())
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(CONTENT[case])
        _refused(receive(connection))
        connection.sendall(post(GOOD))
        assert _is_right(receive(connection))
    assert _is_right(served.raw(post(GOOD)))
    assert len(served.predictions()) - before == 2


@pytest.mark.parametrize("case", FRAMING)
def test_broken_http_is_refused(served, case):
    """Bytes that are no HTTP are refused as JSON too, and the worker goes on."""
    _refused(served.raw(FRAMING[case]))
    assert _is_right(served.raw(post(GOOD)))


@pytest.mark.parametrize("first", [100, 1_000, 40_000, 60_000, 100_000])
def test_long_headers_are_refused_however_they_arrive(served, receive, first):
    """The bound on headers holds whatever pieces the network makes of them."""
    request = FRAMING["header of 100 KB"]
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(request[:first])
        assert _is_right(served.raw(post(GOOD)))  # by now the first piece has been read
        connection.sendall(request[first:])
        assert _refused(receive(connection)) == 431


@pytest.mark.parametrize(
    ("frame", "endless"),
    [
        (b"1\r\n{\r\n0\r\nX: ", b"a"),  # one trailer
        (b"1\r\n{\r\n0\r\n", b"X: y\r\n"),  # trailers
        (b"1;", b"a"),  # one extension
        (b"", b"1;" + b"a" * 500 + b"\r\n{\r\n"),  # extensions
        (b"0" * 100, b"0"),  # a chunk's size
    ],
    ids=["long trailer", "many trailers", "long extension", "many extensions", "long size"],
)
def test_endless_framing_of_a_body_is_refused(served, frame, endless):
    """What comes with a chunked body and is not the body is bounded as headers are, and the worker serves on meanwhile."""
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    piece = endless * (8_192 // len(endless))
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.sendall(head + frame)
        connection.settimeout(0.02)
        answer, sent = b"", 0
        while not answer and sent < 2**21:
            try:
                sent += connection.send(piece)
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert _refused(answer) == 431
    assert sent < 2**18
    assert _is_right(served.raw(post(GOOD)))


def test_small_chunks_and_a_few_trailers_are_served(served):
    """The bound on framing leaves room for chunks of a few bytes and for trailers, which are dropped."""
    content = b" " * 40_000 + json.dumps(GOOD).encode()
    chunks = b"".join(b"8\r\n%b\r\n" % content[at : at + 8].ljust(8) for at in range(0, len(content), 8))
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    assert _is_right(served.raw(head, chunks, b"0\r\nX: y\r\nHost: other\r\n\r\n"))


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
def test_offer_to_upgrade_is_ignored(served, receive, protocol):
    """A request that offers another protocol is answered as it is, whole, in pieces, chunked or pipelined, and others follow."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: %b\r\nHTTP2-Settings: AAMAAABk\r\n" % protocol.encode()
    whole = post(GOOD).replace(b"Host: h\r\n", b"Host: h\r\n" + offer)
    chunked = HEAD + offer + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKED
    with socket.create_connection(("127.0.0.1", served.port), 10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for request in (whole, chunked, whole, post(GOOD)):
            for cut in (len(request), len(request) - 10, 30):
                connection.sendall(request[:cut])
                assert served.is_ready()  # by now the first piece has been read
                connection.sendall(request[cut:])
                assert _is_right(receive(connection))
        connection.sendall(whole + chunked + whole)
        connection.shutdown(socket.SHUT_WR)
        answers = b""
        while more := connection.recv(65536):
            answers += more
    assert answers.count(b"HTTP/1.1 200") == 3
    assert answers.count(b"10.0") == 3


def test_transfer_coding_other_than_chunked_is_501(served):
    """A body that would have to be decompressed is not taken for plain JSON."""
    head = HEAD + b"Transfer-Encoding: "
    assert served.raw(head + b"Chunked\r\n\r\n" + CHUNKED).startswith(b"HTTP/1.1 200")
    for coding in (b"gzip, chunked", b"gzip\r\nTransfer-Encoding: chunked", b"chunked, chunked"):
        answer = served.raw(head + coding + b"\r\n\r\n" + CHUNKED)
        assert int(answer.split()[1]) in (400, 501), answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2]).keys() == {"error"}
    assert served.raw(head + b"gzip, chunked\r\n\r\n" + CHUNKED).startswith(b"HTTP/1.1 501")


def test_request_cut_short_is_refused(served):
    """A client that stops sending in the middle of its request is told so."""
    for part in (post(GOOD)[:40], post(GOOD)[:-10]):
        assert _refused(served.raw(part, is_half_closed=True)) == 400
    assert _is_right(served.raw(post(GOOD), is_half_closed=True))


def test_statuses_are_the_documented_ones(served):
    """The cause decides the status."""
    wanted = {
        "truncated JSON": 400,
        "unknown model": 404,
        "unknown version": 404,
        "unknown path": 404,
        "wrong method": 405,
        "wrong method on health": 405,
        "compressed otherwise": 415,
        "compressed twice": 415,
        "cut gzip": 400,
        "path traversal": 404,
        "ground truth without a token": 401,
    }
    assert {case: _refused(served.raw(CONTENT[case])) for case in wanted} == wanted
    assert {_refused(served.raw(FRAMING[case])) for case in FRAMING if "path" in case} == {400}
    assert _refused(served.raw(FRAMING["a body over the bound"])) == 413
    assert _refused(served.raw(FRAMING["header of 100 KB"])) == 431
    assert b"Request for unknown model" in served.raw(CONTENT["unknown model"])


def test_refusal_repeats_a_long_name_in_part(served):
    """A model that is not there is named by its beginning, however long its name."""
    answer = served.raw(b"GET /v2/models/" + b"x" * 5_000 + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert _refused(answer) == 404
    assert b"unknown model: 'xxx" in answer
    assert len(answer) < 1_500
