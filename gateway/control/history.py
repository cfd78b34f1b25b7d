"""Logged predictions, from the archive and the part of the log that is not in it yet; as JSON, JSON Lines or Parquet."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, cast
from uuid import UUID

import orjson

from gateway.control.calls import Answer, Call, Control, Lines, Parameter, ParameterKind, Reply, TemporaryFile
from gateway.control.registration import in_turn
from gateway.core.errors import MalformedRequest, NotReady, NotValid, UnknownSubject
from gateway.core.fields import Json
from gateway.history import ask as answered
from gateway.history import export, predictions
from gateway.ports.archive import Filter, QuestionLimits

JSON_MAX: Final = 10_000  # records of one JSON answer, which is built in memory: about 10 MB of 20 features
SQL_LENGTH_MAX: Final = 20_000  # characters; far beyond what a person writes
ROWS_DEFAULT: Final = 1_000  # of an answer in SQL
STREAM_MAX: Final = 100_000_000  # of one NDJSON or Parquet answer, which is not
PARQUET: Final = "application/vnd.apache.parquet"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
QUERY: Final = (
    Parameter("route", ParameterKind.TEXT, "Of this route only.", ""),
    Parameter("version", ParameterKind.TEXT, "Answered by this version only.", ""),
    Parameter("since", ParameterKind.TIME, "From this time on."),
    Parameter("until", ParameterKind.TIME, "Before this time."),
    Parameter("limit", ParameterKind.INTEGER, "How many at most, the newest first.", 100, 1, STREAM_MAX),
)


def list_predictions(control: Control, call: Call) -> Reply:
    """Return the newest matching predictions with their ground truth, in the form that `Accept` asks for."""
    since_s, until_s = call.time("since"), call.time("until")
    if since_s is not None and until_s is not None and since_s >= until_s:
        raise MalformedRequest("query.until: expected a time after query.since")
    wanted = Filter(
        route=call.asked("route", str),
        version=call.asked("version", str),
        since_s=since_s,
        until_s=until_s,
        limit=call.asked("limit", int),
    )
    form = _form(call.accept)
    if form == PARQUET:
        return _exported(control, wanted)
    found = predictions(wanted, archive=control.archive, log=control.log)
    if form == NDJSON:
        return Lines(_begun(map(_line, found)), NDJSON)
    if wanted.limit > JSON_MAX:
        raise MalformedRequest(f"query.limit: over {JSON_MAX:,} needs Accept: {NDJSON} or {PARQUET}")
    return Answer({"predictions": list(found)})


def show_prediction(control: Control, call: Call) -> Answer:
    """Return one prediction with its ground truth."""
    return Answer(_one(control, call.path["prediction"]))


def ask(control: Control, call: Call) -> Answer:
    """Answer one question in SQL over `predictions` and `ground_truth`; `is_cut` says that the answer goes on."""
    settings, fields = control.settings, call.fields("question")
    limits = QuestionLimits(
        rows_max=fields.integer("limit", 1, settings.question_rows_max, min(ROWS_DEFAULT, settings.question_rows_max)),
        bytes_max=settings.question_bytes_max,
        memory_bytes=settings.question_memory_bytes,
        timeout_s=settings.question_timeout_s,
    )
    sql, is_archived_only = fields.text("sql", length_max=SQL_LENGTH_MAX), fields.boolean("archived_only", False)
    fields.done()
    if not control.questions.acquire(timeout=settings.question_timeout_s):
        raise NotReady("other questions are still being answered", hint="try again in a minute")
    try:
        found = answered(sql, within=limits, archive=control.archive, log=control.log, is_archived_only=is_archived_only)
    finally:
        control.questions.release()
    columns = [{"name": name, "type": type_} for name, type_ in zip(found.columns, found.types, strict=True)]
    return Answer({"columns": columns, "rows": found.rows, "is_cut": found.is_cut})


def recompute(control: Control, call: Call) -> Answer:
    """Run the same artifact on a prediction's logged inputs, in a validation process, and compare bit for bit."""
    record = _one(control, call.path["prediction"])
    if not record["outputs"]:
        raise NotValid(f"the prediction ended as {record['outcome']}: there is no answer to compare with")
    if missing := [*cast("list[str]", record.get("dropped", [])), *cast("list[str]", record.get("hashed", []))]:
        raise NotValid(f"the log does not have {', '.join(missing)} as it came, to compute from or to compare with")
    version = control.registry.version(str(record["model"]), str(record["version"]))
    if version.digest != record["digest"]:
        raise NotValid(f"version {version.version} has digest {version.digest}, the record says {record['digest']}")
    artifact = control.artifacts.path(version.digest)
    members = [(member, control.artifacts.path(member.digest)) for member in version.members]
    found = in_turn(control, lambda: control.validator.recompute(artifact, version, record, members=members))
    outputs = cast("list[Json]", found["outputs"])
    return Answer(
        {
            "prediction_id": record["prediction_id"],
            "is_equal": not any(output["unequal"] for output in outputs),
            "outputs": outputs,
            "model": version.model,
            "version": version.version,
            "digest": version.digest,
            "runtime_version": found["runtime_version"],
            "recorded_runtime_version": record["runtime_version"],
            "batch_rows": record["batch_rows"],
            "batch_position": record["batch_position"],
        }
    )


def _one(control: Control, prediction_id: str) -> Json:
    try:
        id = str(UUID(prediction_id))  # as the log has it, however it was written
    except ValueError as error:
        raise UnknownSubject(f"there is no prediction {prediction_id[:80]!r}", hint="its id is a UUID") from error
    found = next(predictions(Filter(prediction_id=id, limit=1), archive=control.archive, log=control.log), None)
    if found is None:
        raise UnknownSubject(f"there is no prediction {id!r}", hint="it may be past its retention")
    return found


def _exported(control: Control, wanted: Filter) -> TemporaryFile:
    directory = Path(tempfile.mkdtemp(prefix="headgate-export-"))
    path = directory / "predictions.parquet"
    try:
        export(wanted, path, archive=control.archive, log=control.log)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return TemporaryFile(path, PARQUET)


def _line(record: Json) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _begun(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Return the same pieces, the first one made already: what fails at once is refused before the answer has begun."""
    return itertools.chain(list(itertools.islice(pieces, 1)), pieces)


def _form(accept: str) -> str:
    for part in accept.split(","):
        match part.partition(";")[0].strip().lower():
            case "application/vnd.apache.parquet" | "application/x-parquet":
                return PARQUET
            case "application/x-ndjson" | "application/jsonl":
                return NDJSON
            case "application/json" | "application/*" | "*/*" | "":
                return JSON
            case _:
                continue
    raise MalformedRequest(f"Accept: offered are {JSON}, {NDJSON} and {PARQUET}")
