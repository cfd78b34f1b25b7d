"""Logged predictions, from the archive and the part of the log that is not in it yet; as JSON, JSON Lines or Parquet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import orjson

from gateway.control.calls import Answer, Call, Control, Lines, Parameter, ParameterKind, Reply, TemporaryFile
from gateway.core.errors import MalformedRequest, UnknownSubject
from gateway.core.fields import Json
from gateway.ports import Filter

JSON_MAX: Final = 10_000  # records of one JSON answer, which is built in memory: about 10 MB of 20 features
STREAM_MAX: Final = 100_000_000  # of one NDJSON or Parquet answer, which is not
PARQUET: Final = "application/vnd.apache.parquet"
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
    wanted = Filter(
        route=call.asked("route", str),
        version=call.asked("version", str),
        since_s=call.time("since"),
        until_s=call.time("until"),
        limit=call.asked("limit", int),
    )
    match _form(call.accept):
        case "parquet":
            return _exported(control, wanted)
        case "ndjson":
            return Lines(_lines(control.archive.query(wanted)), NDJSON)
        case _:
            if wanted.limit > JSON_MAX:
                raise MalformedRequest(f"query.limit: over {JSON_MAX:,} needs Accept: {NDJSON} or {PARQUET}")
            return Answer({"predictions": list(control.archive.query(wanted))})


def show_prediction(control: Control, call: Call) -> Answer:
    """Return one prediction with its ground truth."""
    wanted = Filter(prediction_id=call.path["prediction"], limit=1)
    found = next(iter(control.archive.query(wanted)), None)
    if found is None:
        raise UnknownSubject(f"there is no prediction {wanted.prediction_id[:80]!r}", hint="it may be past its retention")
    return Answer(found)


def _exported(control: Control, wanted: Filter) -> TemporaryFile:
    handle = tempfile.NamedTemporaryFile(suffix=".parquet", delete=False)  # noqa: SIM115  # removed after it was sent
    handle.close()
    path = Path(handle.name)
    path.unlink()  # the archive writes a new file
    control.archive.export(replace(wanted), path)
    return TemporaryFile(path, PARQUET)


def _lines(records: Iterator[Json]) -> Iterator[bytes]:
    for record in records:
        yield orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _form(accept: str) -> str:
    asked = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for media_type in asked:
        match media_type:
            case "application/vnd.apache.parquet" | "application/x-parquet":
                return "parquet"
            case "application/x-ndjson" | "application/jsonl":
                return "ndjson"
            case "application/json" | "*/*" | "application/*" | "":
                return "json"
            case _:
                continue
    raise MalformedRequest(f"Accept: offered are application/json, {NDJSON} and {PARQUET}")
