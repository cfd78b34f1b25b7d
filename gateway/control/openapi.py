"""The OpenAPI 3.1 document, made from the table of operations that also dispatches, so that the two cannot drift."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.control.calls import Operation, Parameter, ParameterKind, Takes
from gateway.core.access import Scope
from gateway.core.models import Runtime
from gateway.core.plans import GUARDRAILS_MAX, STEPS_MAX, HoldOutcome, Inconclusive
from gateway.core.rollouts import RolloutState
from gateway.core.routes import SHADOWS_MAX, VARIANTS_MAX
from gateway.core.split import SLOTS
from gateway.core.summaries import Statistic

Schema = dict[str, Any]
_KINDS: Final[dict[ParameterKind, Schema]] = {
    ParameterKind.TEXT: {"type": "string"},
    ParameterKind.INTEGER: {"type": "integer"},
    ParameterKind.BOOLEAN: {"type": "boolean"},
    ParameterKind.TIME: {"type": "string", "description": "Seconds since the epoch, or ISO 8601."},
}


def document(operations: Sequence[Operation], *, version: str) -> Schema:
    """Return the whole document."""
    paths: dict[str, Schema] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Headgate admin API", "version": version},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
    }


def _operation(operation: Operation) -> Schema:
    described: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [*_path_parameters(operation.path), *map(_parameter, operation.query)],
        "responses": _responses(operation),
    }
    if operation.has_if_match:
        described["parameters"].append(
            {"name": "If-Match", "in": "header", "description": "The route's revision; 0 creates.", "schema": {"type": "string"}}
        )
    if operation.scope is not None:
        described["security"] = [{"bearer": []}]
        described["description"] = f"Needs a token with the scope `{operation.scope.value}`."
    if operation.takes is Takes.JSON:
        described["requestBody"] = _content("application/json", _reference(operation.body))
    if operation.takes is Takes.UPLOAD:
        described["requestBody"] = {"required": True, **_content("multipart/form-data", _reference(operation.body))}
    return described


def _responses(operation: Operation) -> Schema:
    media_type = operation.answer if "/" in operation.answer else "application/json"
    schema: Schema = {"type": "string"} if "/" in operation.answer else _reference(operation.answer)
    responses: Schema = {str(operation.status): {"description": "Done.", **_content(media_type, schema)}}
    if operation.scope is not None:
        responses["default"] = {"description": "Refused.", **_content("application/json", _reference("Error"))}
    return responses


def _path_parameters(path: str) -> list[Schema]:
    names = re.findall(r"{(\w+)}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _parameter(parameter: Parameter) -> Schema:
    schema = dict(_KINDS[parameter.kind])
    if parameter.kind is ParameterKind.INTEGER:
        schema |= {"minimum": parameter.low, "maximum": parameter.high}
    if parameter.default not in (None, ""):
        schema["default"] = parameter.default
    return {"name": parameter.name, "in": "query", "description": parameter.description, "schema": schema}


def _content(media_type: str, schema: Schema) -> Schema:
    return {"content": {media_type: {"schema": schema}}}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Sequence[str] = (), properties: Schema | None = None, *, is_open: bool = False, **more: Schema) -> Schema:
    both = {**(properties or {}), **more}
    return {"type": "object", "properties": both, "required": list(required), "additionalProperties": is_open}


def _array(items: Schema, *, items_max: int | None = None) -> Schema:
    return {"type": "array", "items": items} | ({} if items_max is None else {"maxItems": items_max})


def _listing(name: str, items: Schema) -> Schema:
    after: Schema = {"type": ["string", "integer", "null"], "description": "`after` of the next page; null at the end."}
    return _object((name, "next"), {name: _array(items)}, next=after)


def _schemas() -> dict[str, Schema]:
    text: Schema = {"type": "string"}
    anything: Schema = {"type": "object", "additionalProperties": True}
    weight: Schema = {"type": "integer", "minimum": 0, "maximum": SLOTS}
    variant = _object(("name", "version", "weight"), name=text, version=text, weight=weight)
    fraction: Schema = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
    route = {
        "model": text,
        "variants": {**_array(variant, items_max=VARIANTS_MAX), "description": f"Weights sum to {SLOTS}."},
        "shadows": _array(_object(("name", "version"), name=text, version=text, fraction=fraction), items_max=SHADOWS_MAX),
        "assignment": _object(header=text, parameter=text, input=text),
        "fallback": text,
        "deadline_ms": {"type": "integer", "minimum": 1},
        "drift_action": {"enum": ["notify", "rollback"]},
        "needs_approval": {"type": "boolean"},
        "name": text,
        "revision": {"type": "integer"},
        "salt": text,
        "rollout": text,
        "last_good": _array(variant),
    }
    number: Schema = {"type": "number"}
    phase: Schema = {"dwell_s": number, "samples_min": {"type": "integer"}}
    step = _object(("weight",), {"weight": {"type": "integer", "minimum": 1, "maximum": SLOTS}, **phase})
    plan = _object(
        (),
        {
            **phase,
            **dict.fromkeys(("patience_s", "hold_timeout_s", "bake_s", "cool_down_s", "quarantine_s"), number),
        },
        steps=_array({"anyOf": [weight, step]}, items_max=STEPS_MAX),
        shadow={"anyOf": [{"type": "boolean"}, _object((), {"fraction": fraction, **phase})]},
        guardrails=_array(anything, items_max=GUARDRAILS_MAX),
        false_rollbacks_per_year=number,
        rollouts_per_year={"type": "integer"},
        inconclusive={"enum": [one.value for one in Inconclusive]},
        hold_outcome={"enum": [one.value for one in HoldOutcome]},
        cool_down_fraction=fraction,
        advances_itself={"type": "boolean"},
        promotes_itself={"type": "boolean"},
    )
    limits = _object(requests_per_s={"type": "number"}, burst={"type": "integer"}, rows_per_day={"type": "integer"})
    scopes = _array({"enum": [scope.value for scope in Scope]})
    return {
        "Error": _object(("error",), error=text, hint=text),
        "Object": anything,
        "Reason": _object(reason=text),
        "RouteBody": _object(("variants",), route),
        "Route": _object(("name", "model", "variants", "revision"), route),
        "Routes": _listing("routes", _reference("Route")),
        "RouteChange": _object(
            ("route", "revision", "table_revision", "workers"),
            is_open=True,
            route=_reference("Route"),
            revision={"type": "integer", "description": "Of the route."},
            table_revision={"type": "integer", "description": "Of the table that holds this change."},
            workers={**anything, "description": "The table's revision that each worker answers with by now."},
        ),
        "RolloutBody": _object(("challenger",), challenger=text, plan=plan, reason=text),
        "Rollout": _object(
            ("id", "route", "state"), is_open=True, id=text, route=text, state={"enum": [s.value for s in RolloutState]}
        ),
        "Rollouts": _listing("rollouts", _reference("Rollout")),
        "Upload": _object(
            ("artifact",),
            artifact={"type": "string", "contentMediaType": "application/octet-stream"},
            metadata=_object(
                version=text,
                runtime={"enum": [Runtime.ONNX.value, Runtime.PICKLED.value]},
                preprocess={
                    **_object(("model", "version"), model=text, version=text),
                    "description": "The version whose outputs are the artifact's inputs.",
                },
                pickled=_object(
                    method=text, interpreter=text, instances_min={"type": "integer"}, instances_max={"type": "integer"}
                ),
                convert={"type": ["boolean", "object"], "description": "Register as ONNX; true, or an object of atol and rtol."},
                target=anything,
                columns=_array({"type": ["string", "object"]}),
                lineage=anything,
                description=text,
                providers=_array({"type": "string", "description": "What it may run on, the best first; cpu, cuda, tensorrt, …"}),
                batching=_object(rows_max={"type": "integer"}, delay_ms={"type": "number"}),
                summaries=_array(
                    _object(
                        ("tensor", "statistic"),
                        tensor=text,
                        statistic={"enum": [statistic.value for statistic in Statistic]},
                        direction={"type": "integer"},
                    )
                ),
            ),
            reference={"type": "string", "description": "The training sample: Parquet, CSV or JSON Lines, by file name."},
        ),
        "Model": _object(("name", "champion"), is_open=True, name=text, champion=text),
        "Models": _listing("models", _reference("Model")),
        "Version": _object(
            ("model", "version", "digest", "signature"), is_open=True, model=text, version=text, digest=text, signature=anything
        ),
        "Versions": _listing("versions", anything),
        "KeyBody": _object(("name", "scopes"), name=text, scopes=scopes, limits=limits),
        "Key": _object(("id", "name", "scopes"), is_open=True, id=text, name=text, scopes=scopes, limits=limits),
        "Keys": _listing("keys", _reference("Key")),
        "Quarantine": _object(("digest", "until_s"), is_open=True, digest=text, until_s={"type": "number"}),
        "Quarantines": _listing("quarantine", _reference("Quarantine")),
        "AutomationBody": _object(("is_on",), is_on={"type": "boolean"}, reason=text),
        "Notices": _object(
            ("channels", "waiting", "open"),
            channels={"type": "array", "items": {"type": "object"}},
            waiting={"type": "array", "items": {"type": "object"}},
            open={"type": "array", "items": {"type": "object"}},
        ),
        "ChannelTest": _object(("channel", "is_delivered"), channel=text, is_delivered={"type": "boolean"}, error=text),
        "Automation": _object(("is_on",), is_on={"type": "boolean"}, fleet=anything),
        "AuditEntries": _listing("entries", anything),
        "Question": _object(
            ("sql",),
            sql={"type": "string", "description": "One statement that selects, as DuckDB has it."},
            limit={"type": "integer", "minimum": 1, "description": "How many rows at most."},
            archived_only={"type": "boolean", "description": "Leave out the log's end, the last minutes."},
        ),
        "Table": _object(
            ("columns", "rows", "is_cut"),
            columns=_array(_object(("name", "type"), name=text, type=text)),
            rows=_array({"type": "array"}),
            is_cut={"type": "boolean", "description": "Whether there were more rows than were let through."},
        ),
        "Predictions": _listing("predictions", anything),
    }
