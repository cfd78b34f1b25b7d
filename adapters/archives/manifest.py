"""What the archive holds: one small JSON file that names every Parquet file and how far each stream was taken.

A file that the manifest does not name does not exist for a reader; swapping the manifest is the moment at which a segment
becomes part of the archive.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import quote

from adapters.durability import flush

FORMAT: Final = 1
ANCHORS: Final = "anchors"  # the directory of their files
_NAME: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class File:
    """One Parquet file.

    Attributes:
        path: Relative to the archive's directory.
        route: Of its predictions; None for a file of ground truth or anchors.
        records: Predictions, pieces of ground truth or anchors.
        first_s, last_s: Of the records' times.
        first_id, last_id: Of the predictions' ids, as text.
        form: Says which columns the tensors of its predictions have: files of one form have the same; else empty.
        record_bytes: Of its predictions' records, before they are compressed.
    """

    path: str
    route: str | None
    records: int
    first_s: float
    last_s: float
    first_id: str
    last_id: str
    form: str = ""
    record_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """One state of the archive.

    Attributes:
        taken: Stream → the offset up to which it is archived.
        dropped_s: Time of the newest record that was dropped; 0 when none was.
    """

    taken: Mapping[str, int] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    dropped_s: float = 0.0

    def predictions(self) -> tuple[File, ...]:
        """Return the files of predictions."""
        return tuple(file for file in self.files if file.route is not None)

    def ground_truth(self) -> tuple[File, ...]:
        """Return the files of ground truth."""
        return tuple(file for file in self.files if file.route is None and not file.path.startswith(f"{ANCHORS}/"))

    def anchors(self) -> tuple[File, ...]:
        """Return the files of the audit log's anchors."""
        return tuple(file for file in self.files if file.route is None and file.path.startswith(f"{ANCHORS}/"))


def load_manifest(directory: Path) -> Manifest:
    """Return the manifest of an archive; of an empty one when there is none yet.

    Raises:
        OSError, ValueError: it cannot be read.
    """
    try:
        body = json.loads((directory / _NAME).read_bytes())
    except FileNotFoundError:
        return Manifest()
    if body["format"] != FORMAT:
        raise ValueError(f"archive format {body['format']!r} is unknown; this program reads {FORMAT}")
    return Manifest(dict(body["taken"]), tuple(File(**file) for file in body["files"]), float(body.get("dropped_s", 0.0)))


def manifest_age(directory: Path) -> tuple[int, int, int]:
    """Return what changes whenever the manifest is swapped."""
    try:
        found = (directory / _NAME).stat()
    except FileNotFoundError:
        return (0, 0, 0)
    return (found.st_ino, found.st_mtime_ns, found.st_size)


def swap_manifest(directory: Path, manifest: Manifest) -> None:
    """Replace the manifest; durable when it returns, and a reader sees the old one or the new one."""
    body = {
        "format": FORMAT,
        "taken": dict(manifest.taken),
        "files": [dataclasses.asdict(file) for file in manifest.files],
        "dropped_s": manifest.dropped_s,
    }
    staged = directory / (_NAME + ".new")
    with staged.open("w") as file:
        json.dump(body, file)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(directory / _NAME)
    flush(directory)


def encoded(name: str) -> str:
    """Return a name as part of a path, percent-encoded; a very long one ends in its digest, for a path's part has 255 bytes."""
    quoted = quote(name, safe="")
    return quoted if len(quoted) <= 200 else f"{quoted[:150]}~{sha256(name.encode()).hexdigest()[:32]}"
