"""The bodies of the admin API as JSON Schema, by the names that its operations give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.core.access import Scope
from gateway.core.models import Runtime
from gateway.core.plans import GUARDRAILS_MAX, STEPS_MAX, HoldOutcome, Inconclusive
from gateway.core.rollouts import RolloutState
from gateway.core.routes import SHADOWS_MAX, VARIANTS_MAX
from gateway.core.split import SLOTS
from gateway.core.summaries import Statistic

Schema = dict[str, Any]
_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_INTEGER: Final[Schema] = {"type": "integer"}
_BOOLEAN: Final[Schema] = {"type": "boolean"}
_ANYTHING: Final[Schema] = {"type": "object", "additionalProperties": True}
_WEIGHT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": SLOTS}
_FRACTION: Final[Schema] = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}


def schemas() -> dict[str, Schema]:
    """Return every schema by its name."""
    return {
        "Error": _object(("error",), error=_TEXT, hint=_TEXT),
        "Object": _ANYTHING,
        "Reason": _object(reason=_TEXT),
        **_routes(),
        **_rollouts(),
        "Upload": _upload(),
        **_models(),
        **_keys(),
        **_operations(),
        **_predictions(),
    }


def reference(name: str) -> Schema:
    """Return what stands where a schema of that name is meant."""
    return {"$ref": f"#/components/schemas/{name}"}


def _routes() -> dict[str, Schema]:
    variant = _object(("name", "version", "weight"), name=_TEXT, version=_TEXT, weight=_WEIGHT)
    shadow = _object(("name", "version"), name=_TEXT, version=_TEXT, fraction=_FRACTION)
    route = {
        "model": _TEXT,
        "variants": {**_array(variant, items_max=VARIANTS_MAX), "description": f"Weights sum to {SLOTS}."},
        "shadows": _array(shadow, items_max=SHADOWS_MAX),
        "assignment": _object(header=_TEXT, parameter=_TEXT, input=_TEXT),
        "fallback": _TEXT,
        "deadline_ms": {"type": "integer", "minimum": 1},
        "drift_action": {"enum": ["notify", "rollback"]},
        "needs_approval": _BOOLEAN,
        "team": _TEXT,
        "name": _TEXT,
        "revision": _INTEGER,
        "salt": _TEXT,
        "rollout": _TEXT,
        "last_good": _array(variant),
    }
    return {
        "RouteBody": _object(("variants",), route),
        "Route": _object(("name", "model", "variants", "revision"), route),
        "Routes": _listing("routes", reference("Route")),
        "RouteChange": _object(
            ("route", "revision", "table_revision", "workers"),
            is_open=True,
            route=reference("Route"),
            revision={"type": "integer", "description": "Of the route."},
            table_revision={"type": "integer", "description": "Of the table that holds this change."},
            workers={**_ANYTHING, "description": "The table's revision that each worker answers with by now."},
        ),
    }


def _rollouts() -> dict[str, Schema]:
    state = {"enum": [state.value for state in RolloutState]}
    return {
        "RolloutBody": _object(("challenger",), challenger=_TEXT, plan=_plan(), reason=_TEXT),
        "Rollout": _object(("id", "route", "state"), is_open=True, id=_TEXT, route=_TEXT, state=state),
        "Rollouts": _listing("rollouts", reference("Rollout")),
    }


def _plan() -> Schema:
    phase: Schema = {"dwell_s": _NUMBER, "samples_min": _INTEGER}
    step = _object(("weight",), {"weight": {"type": "integer", "minimum": 1, "maximum": SLOTS}, **phase})
    times = dict.fromkeys(("patience_s", "hold_timeout_s", "bake_s", "cool_down_s", "quarantine_s"), _NUMBER)
    return _object(
        (),
        {**phase, **times},
        steps=_array({"anyOf": [_WEIGHT, step]}, items_max=STEPS_MAX),
        shadow={"anyOf": [_BOOLEAN, _object((), {"fraction": _FRACTION, **phase})]},
        guardrails=_array(_ANYTHING, items_max=GUARDRAILS_MAX),
        false_rollbacks_per_year=_NUMBER,
        rollouts_per_year=_INTEGER,
        inconclusive={"enum": [one.value for one in Inconclusive]},
        hold_outcome={"enum": [one.value for one in HoldOutcome]},
        cool_down_fraction=_FRACTION,
        advances_itself=_BOOLEAN,
        promotes_itself=_BOOLEAN,
    )


def _upload() -> Schema:
    return _object(
        ("artifact",),
        artifact={"type": "string", "contentMediaType": "application/octet-stream"},
        metadata=_metadata(),
        reference={"type": "string", "description": "The training sample: Parquet, CSV or JSON Lines, by file name."},
    )


def _metadata() -> Schema:
    before = _object(("model", "version"), model=_TEXT, version=_TEXT)
    summary = _object(
        ("tensor", "statistic"),
        tensor=_TEXT,
        statistic={"enum": [statistic.value for statistic in Statistic]},
        direction=_INTEGER,
    )
    return _object(
        version=_TEXT,
        runtime={"enum": [Runtime.ONNX.value, Runtime.PICKLED.value]},
        preprocess={**before, "description": "The version whose outputs are the artifact's inputs."},
        pickled=_object(method=_TEXT, interpreter=_TEXT, instances_min=_INTEGER, instances_max=_INTEGER),
        convert={"type": ["boolean", "object"], "description": "Register as ONNX; true, or an object of atol and rtol."},
        target=_ANYTHING,
        columns=_array({"type": ["string", "object"]}),
        lineage=_ANYTHING,
        description=_TEXT,
        providers=_array({"type": "string", "description": "What it may run on, the best first; cpu, cuda, tensorrt, …"}),
        batching=_object(rows_max=_INTEGER, delay_ms=_NUMBER),
        summaries=_array(summary),
    )


def _models() -> dict[str, Schema]:
    version = _object(
        ("model", "version", "digest", "signature"), is_open=True, model=_TEXT, version=_TEXT, digest=_TEXT, signature=_ANYTHING
    )
    return {
        "Model": _object(("name", "champion"), is_open=True, name=_TEXT, champion=_TEXT),
        "Models": _listing("models", reference("Model")),
        "Version": version,
        "Versions": _listing("versions", _ANYTHING),
    }


def _keys() -> dict[str, Schema]:
    limits = _object(requests_per_s=_NUMBER, burst=_INTEGER, rows_per_day=_INTEGER)
    scopes = _array({"enum": [scope.value for scope in Scope]})
    return {
        "KeyBody": _object(("name", "scopes"), name=_TEXT, scopes=scopes, limits=limits),
        "Key": _object(("id", "name", "scopes"), is_open=True, id=_TEXT, name=_TEXT, scopes=scopes, limits=limits),
        "Keys": _listing("keys", reference("Key")),
    }


def _operations() -> dict[str, Schema]:
    objects = _array({"type": "object"})
    return {
        "Quarantine": _object(("digest", "until_s"), is_open=True, digest=_TEXT, until_s=_NUMBER),
        "Quarantines": _listing("quarantine", reference("Quarantine")),
        "AutomationBody": _object(("is_on", "reason"), is_on=_BOOLEAN, reason=_TEXT),
        "Notices": _object(("channels", "waiting", "open"), channels=objects, waiting=objects, open=objects),
        "ChannelTest": _object(("channel", "is_delivered"), channel=_TEXT, is_delivered=_BOOLEAN, error=_TEXT),
        "Automation": _object(("is_on",), is_on=_BOOLEAN, fleet=_ANYTHING),
        "AuditEntries": _listing("entries", _ANYTHING),
    }


def _predictions() -> dict[str, Schema]:
    return {
        "Question": _object(
            ("sql",),
            sql={"type": "string", "description": "One statement that selects, as DuckDB has it."},
            limit={"type": "integer", "minimum": 1, "description": "How many rows at most."},
            archived_only={"type": "boolean", "description": "Leave out the log's end, the last minutes."},
        ),
        "Table": _object(
            ("columns", "rows", "is_cut"),
            columns=_array(_object(("name", "type"), name=_TEXT, type=_TEXT)),
            rows=_array({"type": "array"}),
            is_cut={"type": "boolean", "description": "Whether there were more rows than were let through."},
        ),
        "Predictions": _listing("predictions", _ANYTHING),
    }


def _object(required: Sequence[str] = (), properties: Schema | None = None, *, is_open: bool = False, **more: Schema) -> Schema:
    both = {**(properties or {}), **more}
    return {"type": "object", "properties": both, "required": list(required), "additionalProperties": is_open}


def _array(items: Schema, *, items_max: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if items_max is None else {"maxItems": items_max})


def _listing(name: str, items: Schema) -> Schema:
    after: Schema = {"type": ["string", "integer", "null"], "description": "`after` of the next page; null at the end."}
    return _object((name, "next"), {name: _array(items)}, next=after)
