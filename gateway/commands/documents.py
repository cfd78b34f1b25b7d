"""Reads a document that a person wrote, YAML or JSON, which is YAML. Nothing in it is ever executed, and its size and depth are
bounded before it is built."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import ClassVar, Final

import typer
import yaml

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Json
from gateway.core.measurable import refuse_constant
from gateway.core.plans import plan_from_body

BYTES_MAX: Final = 65_536  # twenty guardrails and steps take 5 kB
DEPTH_MAX: Final = 20
_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
_FLOATS: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # the library has no types
    """Reads numbers as YAML 1.2 and JSON have them: 0500 is five hundred, 1e1 is ten, and 1:30 is a text; no key stands twice."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, text) for tag, text in known if tag not in (_INT, _FLOAT)]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[object, object]:
        """Return a mapping; of a key that stands twice nobody knows which is meant."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value[:200]!r} stands twice", key.start_mark)
            seen.add(str(key.value))
        mapping: dict[object, object] = super().construct_mapping(node, deep)
        return mapping


_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _FLOATS, list("-+.0123456789"))
_Loader.add_constructor(_INT, lambda _, node: int(node.value))


def read_document(path: Path) -> object:
    """Return a document as plain JSON values; None when it is empty.

    Raises:
        MalformedRequest: it cannot be read, is too large or too deep, has an alias, or a value that JSON does not have.
    """
    try:
        with path.open("rb") as file:
            text = file.read(BYTES_MAX + 1)
        if len(text) > BYTES_MAX:
            raise MalformedRequest(f"{path}: more than {BYTES_MAX} bytes")
        _refuse_unbounded(path, text)
        document = _Loader(text).get_single_data()
        json.dumps(document, allow_nan=False)
    except (OSError, yaml.YAMLError) as error:
        raise MalformedRequest(f"{path}: {error}") from error
    except (TypeError, ValueError) as error:
        raise MalformedRequest(f"{path}: {error}", hint="quote what looks like a date") from error
    return document


def read_plan(path: Path) -> Json:
    """Return the plan of a rollout as it is written; empty where the document is, for everything has a default.

    Raises:
        typer.BadParameter: it cannot be read, or is no plan.
    """
    try:
        document = read_document(path)
        refuse_constant(plan_from_body(document).guardrails)
    except MalformedRequest as error:
        raise typer.BadParameter(f"{path}: {error.message}", param_hint="--plan") from None
    return document if isinstance(document, dict) else {}


def _refuse_unbounded(path: Path, text: bytes) -> None:
    """Refuse aliases, which multiply what they stand for, and depth, before anything is built."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise MalformedRequest(f"{path}: line {event.start_mark.line + 1}: an alias; write it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH_MAX:
            raise MalformedRequest(f"{path}: nested more than {DEPTH_MAX} deep")
