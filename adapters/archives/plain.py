"""Cuts a segment into parts that DuckDB can hold, in lines whose every tensor with columns is readable for SQL.

DuckDB works on 2,048 lines at once, whatever they weigh, so a part holds any number of narrow lines but few wide ones. SQL cannot
look into base64: a line with a raw tensor, or a wide one, is written anew, with the elements of what becomes columns spelled out
and nothing else of its tensors; NaN and the infinities are the texts that a cast to a number understands. The line itself goes
beside it, untouched. Every other line stays as it is.
"""

from __future__ import annotations

import math
from base64 import b64decode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson

from adapters.archives.columns import ROWS_MAX, WIDTH_MAX
from gateway.core.tensors import NUMPY_DTYPES, Datatype

WIDE_BYTES: Final = 4_096  # of a line that is looked at; 2,048 that are not have 8 MiB
PART_BYTES: Final = 16 * 2**20  # of wide lines, as logged and spelled out; DuckDB needs up to twelve times that for them
ELEMENTS_MAX: Final = ROWS_MAX  # of a record's tensors that are spelled out, some 20 MB of text; more stay in the record alone
SPREAD_BYTES_MAX: Final = 2**24  # of a line of which anything is spelled out, as long as texts may be
_RAW: Final = b'"raw":"'
_SIDES: Final = ("inputs", "outputs")


@dataclass(slots=True)
class Part:
    """Lines that follow each other, and stand in a file.

    Attributes:
        path: That file.
        offsets: Where each begins in its stream.
        records: For each line that was written anew, and for those before it, the line as logged; None where it is the same.
        longest: Bytes of the longest line in the file.
        shortened: Predictions whose record was too long to keep its tensors.
        is_last: Whether no line follows.
    """

    path: Path
    offsets: list[int] = field(default_factory=list)
    records: list[str | None] = field(default_factory=list)
    longest: int = 0
    shortened: int = 0
    is_last: bool = False


def parts(lines: Iterable[bytes], path: Path, *, line_bytes_max: int, first: int = 0) -> Iterator[Part]:
    """Yield lines in parts, each in the file `path` in place of the one before; at least one, which may be empty.

    Args:
        line_bytes_max: Of a line that is kept whole; a longer one loses its tensors.
        first: Offset of the first line in its stream.

    Raises:
        ValueError, KeyError: a line that is wide or holds a raw tensor is not one of the log.
    """
    at, left = first, iter(lines)
    while True:
        part = Part(path)
        with path.open("wb") as file:
            at = _filled(part, left, file, at, line_bytes_max)
        yield part
        if part.is_last:
            return


def _filled(part: Part, lines: Iterator[bytes], file: BinaryIO, at: int, line_bytes_max: int) -> int:
    """Write lines until a part has enough of wide ones, and return the offset of the next."""
    wide = 0
    for line in lines:
        plain, record = line, line
        if len(line) > WIDE_BYTES or _RAW in line:
            record = line if len(line) <= line_bytes_max else _without_tensors(line)
            part.shortened += record is not line
            plain = _plain_line(record)
        if plain is not line:
            part.records += [None] * (len(part.offsets) - len(part.records))
            part.records.append(record.decode().strip())
        file.write(plain)
        part.longest = max(part.longest, len(plain))
        part.offsets.append(at)
        at += len(line)
        wide += len(plain) + len(record) if len(plain) + len(record) > WIDE_BYTES else 0
        if wide >= PART_BYTES:
            return at
    part.is_last = True
    return at


def _without_tensors(line: bytes) -> bytes:
    """Return a prediction's line as if it had had neither inputs nor outputs; any other line as it is."""
    body = orjson.loads(line)
    if body.get("type") != "prediction":
        return line
    return orjson.dumps({**body, "inputs": [], "outputs": []}, option=orjson.OPT_APPEND_NEWLINE)


def _plain_line(line: bytes) -> bytes:
    body = orjson.loads(line)
    if body.get("type") != "prediction":
        return line
    first = body["inputs"][0]["shape"] if body["inputs"] else []
    rows = first[0] if first else 1
    tables = [tensor for side in _SIDES for tensor in body[side] if _is_table(tensor["shape"], rows)]
    is_spread = len(line) <= SPREAD_BYTES_MAX and sum(math.prod(tensor["shape"]) for tensor in tables) <= ELEMENTS_MAX
    for side in _SIDES:
        body[side] = [_plain_tensor(one, is_spread=is_spread and _is_table(one["shape"], rows)) for one in body[side]]
    return orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _is_table(shape: list[int], rows: int) -> bool:
    """Return whether a tensor becomes columns, as the query for a form says it."""
    return len(shape) in (1, 2) and shape[0] == rows and 1 <= (shape[1] if len(shape) == 2 else 1) <= WIDTH_MAX


def _plain_tensor(tensor: dict[str, Any], *, is_spread: bool) -> dict[str, Any]:
    plain = {name: tensor[name] for name in ("name", "datatype", "shape")}
    if not is_spread:
        return plain
    if "raw" not in tensor:
        return {**plain, "data": tensor["data"]}
    datatype, raw = Datatype(tensor["datatype"]), b64decode(tensor["raw"])
    return {**plain, "data": _texts(raw) if datatype is Datatype.BYTES else _numbers(datatype, raw)}


def _numbers(datatype: Datatype, raw: bytes) -> np.ndarray[Any, Any] | list[float | str]:
    """Return elements whose written form reads back the same, as text where JSON has no number."""
    values = np.frombuffer(raw, NUMPY_DTYPES[datatype].newbyteorder("<"))
    values = values.astype(np.float32 if datatype is Datatype.FP16 else NUMPY_DTYPES[datatype])  # a half float has no digits
    if np.isfinite(values).all():
        return values
    return [value if math.isfinite(value) else str(value) for value in values.tolist()]


def _texts(raw: bytes) -> list[str]:
    """Return BYTES as text; a byte that is not UTF-8 is shown as its hexadecimal escape."""
    texts: list[str] = []
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        texts.append(raw[start:at].decode(errors="backslashreplace"))
    return texts
