"""The parameters of a request: what each may hold, and how the outputs that were asked for are to be written.

Parameters that the protocol reserves do what it says or are refused; a caller's own pass unread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from gateway.core.errors import MalformedRequest, NotOffered

Parameters = Mapping[str, str | int | float | bool]

_SEQUENCE_KEYS: Final = ("sequence_id", "sequence_start", "sequence_end")
_SHARED_MEMORY: Final = "shared_memory"  # what the names of its parameters begin with
_PRIORITY_MAX: Final = 2**32 - 1
_TIMEOUT_US_MAX: Final = 10**15  # thirty years; what is meant to be no bound at all is left out


@dataclass(frozen=True, slots=True)
class Form:
    """How an output is written.

    Attributes:
        is_binary: As bytes after the JSON rather than within it.
        classes: The number of highest values to name in place of all; 0 for the tensor as it is.
    """

    is_binary: bool = False
    classes: int = 0


@dataclass(frozen=True, slots=True)
class Forms:
    """How the outputs of an answer are written.

    Attributes:
        default: Of outputs that were not listed.
        listed: By name.
    """

    default: Form = Form()
    listed: Mapping[str, Form] = field(default_factory=dict)

    def of(self, name: str) -> Form:
        """Return the form of an output."""
        return self.listed.get(name, self.default)


def request_parameters(parameters: object) -> Parameters:
    """Return a request's parameters.

    Raises:
        MalformedRequest: they are not of the protocol's form.
        NotOffered: they ask for sequences or shared memory.
    """
    checked = _checked(parameters, "parameters")
    for key in _SEQUENCE_KEYS:
        if checked.get(key):
            raise NotOffered(f"parameters.{key}: this gateway does not offer it")
    if "priority" in checked:
        priority = checked["priority"]
        if type(priority) is not int or not 0 <= priority <= _PRIORITY_MAX:
            raise MalformedRequest(f"parameters.priority: expected an integer from 0 to {_PRIORITY_MAX}")
    if "timeout" in checked:
        timeout_us = checked["timeout"]
        if isinstance(timeout_us, bool | str) or not 0 <= timeout_us <= _TIMEOUT_US_MAX:
            raise MalformedRequest(f"parameters.timeout: expected microseconds from 0, which is none, to {_TIMEOUT_US_MAX}")
    if "binary_data_output" in checked:
        _boolean(checked["binary_data_output"], "parameters.binary_data_output")
    return checked


def blob_bytes(parameters: object, name: str) -> int | None:
    """Return the bytes of an input that follow the JSON, or None when its data is within.

    Raises:
        MalformedRequest: they are not of the protocol's form.
        NotOffered: the input is in shared memory.
    """
    checked = _checked(parameters, f"input {name!r}: parameters")
    for key in checked:
        if key.startswith(_SHARED_MEMORY):
            raise NotOffered(f"input {name!r}: parameters.{key}: this gateway does not offer it")
    size = checked.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise MalformedRequest(f"input {name!r}: parameters.binary_data_size: expected bytes, from 0")
    return size


def wanted_outputs(outputs: object, parameters: Parameters) -> tuple[list[str] | None, Forms | None]:
    """Return the outputs asked for in their order, None for all, and how they are written, or None when all are plain JSON.

    Raises:
        MalformedRequest: they are not of the protocol's form, or one is asked for twice.
        NotOffered: one shall go to shared memory.
    """
    if type(outputs) is not list:
        raise MalformedRequest("outputs: expected an array")
    if not outputs:
        return None, default_forms(parameters)
    default = Form(is_binary=bool(parameters.get("binary_data_output")))
    listed: dict[str, Form] = {}
    is_plain = True
    for item in outputs:
        if type(item) is not dict or type(item.get("name")) is not str:
            raise MalformedRequest("outputs: expected each to be an object with a name")
        name, own = item["name"], item.get("parameters")
        if name in listed:
            raise MalformedRequest(f"outputs: {name!r} is asked for twice")
        listed[name] = form = default if own is None else _form(own, name, default)
        is_plain = is_plain and form == _PLAIN
    return list(listed), None if is_plain else Forms(default, listed)


def default_forms(parameters: Parameters) -> Forms | None:
    """Return how all outputs are written when none was asked for by name, or None for plain JSON."""
    return BINARY if parameters.get("binary_data_output") else None


def _form(parameters: object, name: str, default: Form) -> Form:
    where = f"output {name!r}: parameters"
    checked = _checked(parameters, where)
    for key, value in checked.items():
        if value and key.startswith(_SHARED_MEMORY):
            raise NotOffered(f"{where}.{key}: this gateway does not offer it")
    is_binary = _boolean(checked.get("binary_data", default.is_binary), f"{where}.binary_data")
    classes = checked.get("classification", 0)
    if type(classes) is not int or classes < 0:
        raise MalformedRequest(f"{where}.classification: expected a number of classes, from 0")
    return Form(is_binary, classes)


def _boolean(value: object, where: str) -> bool:
    if type(value) is not bool:
        raise MalformedRequest(f"{where}: expected a boolean")
    return value


def _checked(parameters: object, where: str) -> Parameters:
    if type(parameters) is not dict:
        raise MalformedRequest(f"{where}: expected an object")
    for key, value in parameters.items():
        if not isinstance(value, str | int | float | bool):
            raise MalformedRequest(f"{where}.{key[:80]}: expected a string, a number or a boolean")
        if key.startswith("triton_"):
            raise MalformedRequest(f"{where}.{key[:80]}: names that begin with triton_ are reserved")
    return cast("Parameters", parameters)


_PLAIN: Final = Form()
BINARY: Final = Forms(Form(is_binary=True))
