"""Which small files of the archive become one larger file, and how that is called. Pure.

A segment closes by age long before it is full, so a quiet route makes a file every few minutes. Files of one directory, stream
and form that follow each other are joined: within a day by the dozen, and once the day is over whatever is left of them, so that
a record is written anew at most twice. No file becomes larger than what a full segment makes: reading in order sorts a file at
a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from adapters.archives.manifest import File

OPEN_DAY_FILES: Final = 12  # an hour of segments at the default `log.segment_age_s`
RECORDS_MAX: Final = 100_000  # of one joined file; what a full segment holds at 20 features
BYTES_MAX: Final = 64 * 2**20  # of its records; what a full segment has, and DuckDB may hold one file's at once
GRACE_S: Final = 3_600.0  # after midnight, until the day's last segments were closed and taken
_STEM: Final = re.compile(r"(?P<stream>.*?)(?P<places>(-\d{20}(-\d{1,10})?)+)")
_PLACE: Final = re.compile(r"-\d{20}(?!\d)(?:-\d{1,10}(?!\d))?")


def due(files: Sequence[File], *, now_s: float) -> Sequence[File]:
    """Return the files to be joined next, in the order of their stream; none when nothing is due.

    Args:
        now_s: Seconds since the epoch; says which days are over.
    """
    today = datetime.fromtimestamp(now_s - GRACE_S, UTC).strftime("date=%Y-%m-%d")
    groups: dict[tuple[str, str, str], list[File]] = {}
    for file in files:
        if file.route is not None and not file.form:
            continue  # nobody wrote down which columns it has
        path = PurePosixPath(file.path)
        groups.setdefault((str(path.parent), _stream(path.stem), file.form), []).append(file)
    for (directory, _, _), group in sorted(groups.items()):
        is_over = PurePosixPath(directory).name < today
        fresh = [file for file in group if is_over or not _is_joined(file)]
        for run in _runs(sorted(fresh, key=_place)):
            if len(run) >= (2 if is_over else OPEN_DAY_FILES):
                return run
    return ()


def joined(files: Sequence[File]) -> File:
    """Return the file that holds what these hold; its name has the first place and the last, so that none has it twice."""
    first, last = PurePosixPath(files[0].path), PurePosixPath(files[-1].path)
    name = f"{_stream(first.stem)}{_places(first.stem)[0]}{_places(last.stem)[-1]}{first.suffix}"
    return File(
        path=str(first.with_name(name)),
        route=files[0].route,
        records=sum(file.records for file in files),
        first_s=min(file.first_s for file in files),
        last_s=max(file.last_s for file in files),
        first_id=min(file.first_id for file in files),
        last_id=max(file.last_id for file in files),
        form=files[0].form,
        record_bytes=sum(file.record_bytes for file in files),
    )


def _runs(files: Sequence[File]) -> Iterator[list[File]]:
    """Yield neighbours that fit into one file together; once joined, the same runs come out again."""
    run: list[File] = []
    for file in files:
        more = [*run, file]
        if run and (sum(one.records for one in more) > RECORDS_MAX or sum(one.record_bytes for one in more) > BYTES_MAX):
            yield run
            more = [file]
        run = more
    yield run


def _stream(stem: str) -> str:
    return _parsed(stem)["stream"]


def _places(stem: str) -> list[str]:
    return _PLACE.findall(_parsed(stem)["places"])


def _parsed(stem: str) -> re.Match[str]:
    found = _STEM.fullmatch(stem)
    if found is None:
        raise ValueError(f"{stem!r} is not the name of a file of the archive")
    return found


def _is_joined(file: File) -> bool:
    return len(_places(PurePosixPath(file.path).stem)) > 1


def _place(file: File) -> str:
    """Return what orders the files of a stream: offsets have twenty digits."""
    return _places(PurePosixPath(file.path).stem)[0]
