"""What the log may not hold never reaches a segment, and nothing else changes."""

from __future__ import annotations

from onnx import helper

from adapters.clock import SystemClock
from adapters.logs.reading import SegmentReader
from adapters.logs.segments import SegmentWriter
from adapters.stores.memory import MemoryRegistry
from gateway.core.privacy import Privacy
from gateway.core.records import Kind, Offset, PredictionRecord
from gateway.core.split import hashed_key
from gateway.serving.discretion import Discretion

SECRET = b"0123456789abcdef"
FLOAT, STRING = 1, 8  # of ONNX' element types
IBAN, EMAIL = "XX00SENTINELIBAN", "sentinel@example.com"


def echo(models):
    """`y = age` and `letter = iban`, of the inputs `iban`, `email` and `age`."""
    inputs = [("iban", STRING, ["n", 1]), ("email", STRING, ["n", 1]), ("age", FLOAT, ["n", 1])]
    nodes = [helper.make_node("Identity", ["age"], ["y"]), helper.make_node("Identity", ["iban"], ["letter"])]
    return models.graph(nodes, inputs, [("y", FLOAT, ["n", 1]), ("letter", STRING, ["n", 1])])


def asked(worker, name: str, **more: object):
    row = {"iban": IBAN, "email": EMAIL, "age": 31.0}
    return worker.client.post(f"/v1/models/{name}:predict", json={"instances": [row]}, **more)


def test_segment_never_has_what_is_dropped_or_hashed(make_worker, models, until, tmp_path):
    """Live, shadow and pinned predictions leave no byte of the values in any file, and are answered as ever."""
    log = tmp_path / "log"
    writer = SegmentWriter(
        log, "w0", segment_bytes_max=1 << 30, segment_age_s=1e9, bytes_max=1 << 40, free_bytes_min=0, clock=SystemClock()
    )
    privacy = Privacy(dropped="credit/iban", hashed="*/email, credit/letter", secret=SECRET)
    worker = make_worker(writer=writer, privacy=privacy).start()
    for version in ("1", "2"):
        worker.register("credit", version, echo(models), champion=version == "1", columns=["iban", "email", "age"])
    shadow = [{"name": "next", "version": "2", "fraction": 1.0}]
    worker.route(
        "credit",
        {
            "model": "credit",
            "variants": [{"name": "champion", "version": "1", "weight": 10_000}],
            "shadows": shadow,
            "assignment": {"input": "iban"},
        },
    )
    worker.until_served(until)

    assert asked(worker, "credit").json() == {"predictions": [{"y": 31.0, "letter": IBAN}]}
    values = (("iban", "BYTES", IBAN), ("email", "BYTES", EMAIL), ("age", "FP32", 31.0))
    pinned = {"inputs": [{"name": name, "shape": [1, 1], "datatype": type_, "data": [value]} for name, type_, value in values]}
    assert worker.client.post("/v2/models/credit/versions/2/infer", json=pinned).status_code == 200

    def predictions() -> list[PredictionRecord]:
        found = SegmentReader(log).read("w0", Offset(0), 1_000).records if log.exists() else ()
        return [record for _, record in found if isinstance(record, PredictionRecord)]

    until(lambda: len(predictions()) == 3)
    records = predictions()
    assert {record.kind for record in records} == {Kind.LIVE, Kind.SHADOW, Kind.PINNED}
    for record in records:
        assert (record.dropped, record.hashed) == (("iban", "letter"), ("email",))
        assert record.outputs[0].data.tolist() == [[31.0]]
        assert record.inputs[2].data.tolist() == [[31.0]]
    assert len({record.inputs[1].data.item() for record in records}) == 1
    worker.stop()
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    for value in (IBAN, EMAIL, hashed_key(IBAN)):
        assert value.encode() not in written


def test_version_that_the_registry_does_not_know_loses_inputs_and_outputs(make_worker, models, until):
    """If a version's columns cannot be told, the record is written without any value rather than with all."""
    worker = make_worker().start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    assert worker.infer("m", [[1, 2, 3, 4]]).status_code == 200
    (record,) = worker.predictions()
    privacy = Privacy(dropped="m/email", hashed="", secret=SECRET)

    unknown = Discretion(privacy, MemoryRegistry(clock=SystemClock()))(record)
    nameless = Discretion(privacy, worker.registry)(record)

    assert (unknown.dropped, unknown.inputs[0].shape) == (("x", "y"), (1, 0))
    assert unknown.outputs[0].shape == (1, 0)
    assert nameless.dropped == ("x",)  # one of its columns, which have no names, may be the e-mail address
    assert nameless.outputs == record.outputs
