"""The OpenAPI 3.1 document, made from the table of operations that also dispatches, so that the two cannot drift."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.control.calls import Operation, Parameter, ParameterKind, Takes
from gateway.control.schemas import Schema, reference, schemas

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
        "components": {"schemas": schemas(), "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
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
        described["requestBody"] = _content("application/json", reference(operation.body))
    if operation.takes is Takes.UPLOAD:
        described["requestBody"] = {"required": True, **_content("multipart/form-data", reference(operation.body))}
    return described


def _responses(operation: Operation) -> Schema:
    media_type = operation.answer if "/" in operation.answer else "application/json"
    schema: Schema = {"type": "string"} if "/" in operation.answer else reference(operation.answer)
    responses: Schema = {str(operation.status): {"description": "Done.", **_content(media_type, schema)}}
    if operation.scope is not None:
        responses["default"] = {"description": "Refused.", **_content("application/json", reference("Error"))}
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
