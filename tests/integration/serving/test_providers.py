"""Execution providers at a worker: what runs where the one that a version names first is not there."""

from __future__ import annotations

ROW = [[1, 2, 3, 4]]


def test_version_falls_back_as_it_says(worker, models, until, caplog):
    """With the processor as its last provider a version runs on that, which metadata, a metric and its records show."""
    worker.register("m", "1", models.linear(), champion=True, providers=("cuda", "cpu"))
    worker.until_served(until)
    answer = worker.infer("m", ROW)
    assert (answer.status_code, answer.json()["outputs"][0]["data"]) == (200, [10.0])
    assert worker.metric("gateway_provider_fallbacks_total", model="m", version="1") == 1
    assert worker.client.get("/v2/models/m").json()["properties"]["provider"] == "cpu"
    configured = worker.client.get("/v2/models/m/config").json()
    assert configured["parameters"]["provider"] == {"string_value": "cpu"}
    assert configured["instance_group"][0]["kind"] == "KIND_CPU"
    (told,) = [one.provider for one in caplog.records if "without the execution provider" in one.message]
    assert told == "cpu"
    (record,) = worker.predictions()
    assert record.runtime_version
    assert "cuda" not in record.runtime_version


def test_version_that_may_not_fall_back_does_not_load(worker, models, until, caplog):
    """Without the processor among its providers it does not load, and the journal says what is there instead."""
    worker.register("m", "1", models.linear(), champion=True)
    worker.register("m", "2", models.linear(), providers=("cuda", "tensorrt"))
    worker.until_served(until)
    answer = worker.infer("m", ROW, version="2")
    assert answer.status_code == 500
    (told,) = [one.reason for one in caplog.records if "did not load" in one.message]
    assert "no execution provider of cuda, tensorrt works here: this build of ONNX Runtime has cpu" in told
    assert "cpu as its last provider" in told
    assert worker.metric("gateway_load_failures_total", model="m", version="2") == 1
    assert worker.client.get("/v2/models/m/versions/2").json()["properties"]["provider"] == "cuda"
    assert worker.client.get("/v2/models/m/versions/2/config").json()["instance_group"][0]["kind"] == "KIND_GPU"


def test_version_that_names_only_the_processor_runs_on_it(worker, models, until):
    """What is there is no fall-back, and is not counted as one."""
    worker.register("m", "1", models.linear(), champion=True, providers=("cpu",))
    worker.until_served(until)
    assert worker.infer("m", ROW).status_code == 200
    assert worker.metric("gateway_provider_fallbacks_total") == 0
