"""Makes every tensor of a segment readable for SQL: what a line holds as raw bytes is spelled out.

SQL cannot look into base64, so a line with a raw tensor becomes `{"record": <the line>, "inputs": […], "outputs": […]}`, in
which NaN and the infinities are the texts that a cast to a number understands. Every other line stays as it is.
"""

from __future__ import annotations

import itertools
import json
import math
from base64 import b64decode
from pathlib import Path
from typing import Any, Final

import numpy as np

from gateway.core.tensors import NUMPY_DTYPES, Datatype

_RAW: Final = b'"raw":"'


def longest_line(segment: Path) -> int:
    """Return the bytes of a segment's longest line."""
    with segment.open("rb") as file:
        return max(map(len, file), default=0)


def line_starts(segment: Path, first: int) -> list[int]:
    """Return the offset in its stream of each line of a segment that begins at `first`."""
    with segment.open("rb") as file:
        return list(itertools.accumulate(map(len, file), initial=first))[:-1]


def holds_raw(segment: Path) -> bool:
    """Return whether any line may hold a raw tensor."""
    with segment.open("rb") as file:
        return any(_RAW in line for line in file)


def write_plain(segment: Path, to: Path) -> None:
    """Copy a segment with every raw tensor spelled out."""
    with segment.open("rb") as lines, to.open("wb") as out:
        for line in lines:
            out.write(_plain_line(line) if _RAW in line else line)


def _plain_line(line: bytes) -> bytes:
    body = json.loads(line)
    if body.get("type") != "prediction":
        return line
    sides = {side: [_plain_tensor(tensor) for tensor in body[side]] for side in ("inputs", "outputs")}
    return b'{"record":' + line.strip() + b"," + json.dumps(sides).encode()[1:] + b"\n"


def _plain_tensor(tensor: dict[str, Any]) -> dict[str, Any]:
    if "raw" not in tensor:
        return tensor
    datatype, raw = Datatype(tensor["datatype"]), b64decode(tensor["raw"])
    data = _texts(raw) if datatype is Datatype.BYTES else _numbers(datatype, raw)
    return {"name": tensor["name"], "datatype": tensor["datatype"], "shape": tensor["shape"], "data": data}


def _numbers(datatype: Datatype, raw: bytes) -> list[float | str]:
    """Return floats as the shortest numbers that read back the same, and as text where JSON has no number."""
    values = np.frombuffer(raw, NUMPY_DTYPES[datatype].newbyteorder("<"))
    values = values.astype(np.float32) if datatype is Datatype.FP16 else values  # a half float's own digits are not exact
    return [float(str(value)) if math.isfinite(value) else str(value) for value in values]


def _texts(raw: bytes) -> list[str]:
    """Return BYTES as text; a byte that is not UTF-8 is shown as its hexadecimal escape."""
    texts: list[str] = []
    at = 0
    while at < len(raw):
        start = at + 4
        at = start + int.from_bytes(raw[at:start], "little")
        texts.append(raw[start:at].decode(errors="backslashreplace"))
    return texts
