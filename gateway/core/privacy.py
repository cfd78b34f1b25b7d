"""What of a prediction the log may hold: a value as it came, a keyed hash in its place, or nothing.

Rules name columns and outputs of a model or route; what they come to for a version is settled once, and errs on the side of
nothing. Equal values of a column have equal hashes, so that they can still be counted, grouped and joined; without the secret
nobody finds a value by hashing guesses. An output is there or not: its hash would be taken for an answer. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import numpy as np

from gateway.core.errors import MalformedRequest
from gateway.core.models import Version
from gateway.core.records import PredictionRecord
from gateway.core.tensors import Array, Tensor, TensorSpec, element_bytes

EVERY: Final = "*"  # model and route
ASSIGNMENT_KEY: Final = "assignment_key"  # may be hashed as if it were a column
RULES_MAX: Final = 1_000  # of one setting
SECRET_BYTES: Final = (16, 64)  # fewer could be guessed; more is beyond what the hash takes
HASHED_ELEMENTS_MAX: Final = 4_096  # of one request, some 6 ms; of what has more nothing is hashed, and all left out
_HASH_BYTES_MIN: Final = 4  # of an element: a smaller one has no room for a hash without collisions


@dataclass(frozen=True, slots=True)
class Rule:
    """One column (or whole input, or output) of one model or route, or of every one."""

    where: str
    name: str


@dataclass(frozen=True, slots=True)
class Redaction:
    """What is kept from the log of one version on one route.

    Attributes:
        dropped, hashed: Names of inputs, of columns of the one wide input, or of outputs, which are left out by either.
        columns: Of the one wide input, in order; empty when every name is an input's.
        unmatched: Names that rules for this very model or route have, and the version does not.
    """

    dropped: tuple[str, ...]
    hashed: tuple[str, ...]
    columns: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def rules_from_text(text: str, setting: str) -> tuple[Rule, ...]:
    """Read `MODEL/COLUMN, ROUTE/COLUMN, */COLUMN`.

    Raises:
        MalformedRequest: one is neither, or there are too many.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if len(parts) > RULES_MAX:
        raise MalformedRequest(f"{setting}: expected at most {RULES_MAX} columns")
    rules = tuple(Rule(*(half.strip() for half in part.partition("/")[::2])) for part in parts)
    for part, rule in zip(parts, rules, strict=True):
        if not rule.where or not rule.name:
            raise MalformedRequest(f"{setting}: {part!r} is not MODEL/COLUMN, ROUTE/COLUMN or */COLUMN")
    return rules


class Privacy:
    """The rules of a gateway and the secret that its hashes are keyed with."""

    def __init__(self, *, dropped: str, hashed: str, secret: bytes) -> None:
        """Read the rules as the settings `log.dropped` and `log.hashed` have them.

        Raises:
            MalformedRequest: a rule or the secret is not what it should be.
        """
        self._dropped = rules_from_text(dropped, "log.dropped")
        self._hashed = rules_from_text(hashed, "log.hashed")
        if any(rule.name == ASSIGNMENT_KEY for rule in self._dropped):
            raise MalformedRequest(f"log.dropped: {ASSIGNMENT_KEY} can be hashed only: evidence tells callers apart by it")
        if not SECRET_BYTES[0] <= len(secret) <= SECRET_BYTES[1]:
            raise MalformedRequest(f"log.secret_file: expected {SECRET_BYTES[0]} to {SECRET_BYTES[1]} bytes, got {len(secret)}")
        self._secret = secret

    def redaction(self, route: str, version: Version) -> Redaction | None:
        """Return what is kept from the log of a version's predictions on a route; None when everything may be there.

        A column that cannot be found in a version whose inputs have columns without names may be any of them: those inputs are
        left out as a whole.
        """
        places = {EVERY, route, version.model}
        dropping = [rule for rule in self._dropped if rule.where in places]
        hashing = [rule for rule in self._hashed if rule.where in places]
        if not dropping and not hashing:
            return None
        inputs = {spec.name: spec for spec in version.signature.inputs}
        wide = _wide(version)
        known = {**dict.fromkeys(wide, version.signature.inputs[0]), **inputs}
        outputs = {spec.name for spec in version.signature.outputs}
        here = {*known, *outputs, ASSIGNMENT_KEY}
        sought = [rule for rule in (*dropping, *hashing) if rule.name not in here]
        unmatched = _unique(rule.name for rule in sought if rule.where != EVERY)
        blurred = [spec.name for spec in inputs.values() if not wide and not _is_column(spec)] if unmatched else []
        roomy = [rule.name for rule in hashing if rule.name in known and _has_room(known[rule.name])]
        dropped = _unique(
            [
                *(rule.name for rule in dropping if rule.name in known or rule.name in outputs),
                *(rule.name for rule in hashing if rule.name not in roomy and (rule.name in known or rule.name in outputs)),
                *blurred,
            ]
        )
        hashed = _unique(name for name in roomy if name not in dropped)
        return Redaction(dropped, hashed, wide, unmatched)

    def redacted(self, record: PredictionRecord, redaction: Redaction) -> PredictionRecord:
        """Return the record as the log may hold it; its assignment key is hashed with the secret, too."""
        redaction = _fitted(redaction, record.inputs)
        hidden = {*redaction.dropped, *redaction.hashed}
        return replace(
            record,
            inputs=tuple(self._tensor(tensor, redaction) for tensor in record.inputs),
            outputs=tuple(left_out(tensor) if tensor.name in hidden else tensor for tensor in record.outputs),
            assignment_key=self._hash(ASSIGNMENT_KEY, record.assignment_key.encode()).hex(),
            dropped=redaction.dropped,
            hashed=redaction.hashed,
        )

    def _tensor(self, tensor: Tensor, redaction: Redaction) -> Tensor:
        if tensor.name in redaction.dropped:
            return left_out(tensor)
        if tensor.name in redaction.hashed:
            data = self._hashes(tensor.name, tensor.data.ravel()).reshape(tensor.shape)
            return Tensor(tensor.name, tensor.datatype, data)
        if not {*redaction.dropped, *redaction.hashed} & set(redaction.columns):
            return tensor
        data = tensor.data.copy()
        for at, name in enumerate(redaction.columns):
            if name in redaction.dropped:
                data[:, at] = _blank(data)
            elif name in redaction.hashed:
                data[:, at] = self._hashes(name, data[:, at])
        return Tensor(tensor.name, tensor.datatype, data)

    def _hashes(self, name: str, values: Array) -> Array:
        """Return a hash for each value, shape (n,): 16 hexadecimal digits, an integer of two bits less, a number in [0, 2)."""
        found = [self._hash(name, _plain(value)) for value in values.tolist()]
        if values.dtype.kind == "O":
            return np.array([one.hex().encode() for one in found], np.object_)
        bits = 8 * values.dtype.itemsize - 2  # of a float: those of every number in [0, 2), and of no other
        numbers = [int.from_bytes(one, "big") >> (64 - bits) for one in found]
        return np.array(numbers, np.dtype(f"u{values.dtype.itemsize}")).view(values.dtype)

    def _hash(self, name: str, value: bytes) -> bytes:
        return blake2b(value, digest_size=8, key=self._secret, person=_person(name)).digest()


def left_out(tensor: Tensor) -> Tensor:
    """Return a tensor that still says how many rows there were, and nothing else."""
    return Tensor(tensor.name, tensor.datatype, np.empty((*tensor.shape[:1], 0), tensor.data.dtype))


def all_dropped(record: PredictionRecord) -> PredictionRecord:
    """Return a record without any input or output, of a version that is not known."""
    inputs, outputs = (tuple(map(left_out, tensors)) for tensors in (record.inputs, record.outputs))
    dropped = _unique(tensor.name for tensor in (*inputs, *outputs))
    return replace(record, inputs=inputs, outputs=outputs, assignment_key="", is_keyed=False, dropped=dropped)


def _fitted(redaction: Redaction, inputs: Sequence[Tensor]) -> Redaction:
    """Return what is done to these inputs: those with other columns than promised, or too much to hash, are left out."""
    if not inputs:
        return redaction
    dropped, hashed = redaction.dropped, redaction.hashed
    rows = inputs[0].shape[0] if inputs[0].shape else 1
    sizes = {tensor.name: tensor.data.size for tensor in inputs}
    if sum(sizes.get(name, rows) for name in hashed) > HASHED_ELEMENTS_MAX:
        dropped, hashed = (*dropped, *hashed), ()
    if redaction.columns and inputs[0].shape[1:] != (len(redaction.columns),):
        dropped, hashed = (*dropped, inputs[0].name), ()
    return redaction if dropped is redaction.dropped else replace(redaction, dropped=_unique(dropped), hashed=hashed)


def _wide(version: Version) -> tuple[str, ...]:
    """Return the columns of the one wide input; nothing when columns are inputs, or have no names."""
    inputs, columns = version.signature.inputs, tuple(column.name for column in version.columns)
    return columns if len(inputs) == 1 and len(inputs[0].shape) == 2 and columns != (inputs[0].name,) else ()


def _is_column(spec: TensorSpec) -> bool:
    return spec.is_batched and spec.shape[1:] in ((), (1,))


def _has_room(spec: TensorSpec) -> bool:
    return element_bytes(spec.datatype) >= _HASH_BYTES_MIN


def _blank(data: Array) -> float | bytes:
    """Return what stands in a column of a wide input that is left out: NaN where there is one, else zero or nothing."""
    blanks: dict[str, float | bytes] = {"f": np.nan, "O": b""}
    return blanks.get(data.dtype.kind, 0)


def _plain(value: object) -> bytes:
    """Return what is hashed of a value: the same for 4 and 4.0, whatever their datatype."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, float) and value.is_integer():
        return str(int(value)).encode()
    return str(value).encode()


@lru_cache(RULES_MAX)
def _person(name: str) -> bytes:
    """Return what keeps equal values of different columns apart."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _unique(names: Iterable[str] | Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
