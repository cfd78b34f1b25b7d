"""An upload on its way to disk: a multipart body parsed piece by piece, hashed while it is written, bounded everywhere.

Whatever happens, `discard` leaves nothing behind; a registered artifact has been moved away by then. The caller has been
authenticated before the first byte is asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

import anyio.to_thread
import orjson
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gateway.core.errors import MalformedRequest, PayloadTooLarge, StoreFailed
from gateway.core.models import Digest
from gateway.settings import ControlSettings

ARTIFACT, METADATA, REFERENCE = "artifact", "metadata", "reference"
PENDING_BYTES_MAX: Final = 2**20  # hashed and written in one go, in a thread: about 2 ms
HEADER_BYTES_MAX: Final = 4_096  # of one header line of a part
EPILOGUE_BYTES_MAX: Final = 4_096  # after the last boundary, in pieces of their own; some senders add a line break
_SUFFIXES: Final = {
    ".parquet": ".parquet",
    ".csv": ".csv",
    ".jsonl": ".jsonl",
    ".ndjson": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "text/csv": ".csv",
    "application/x-ndjson": ".jsonl",
    "application/jsonl": ".jsonl",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A complete upload.

    Attributes:
        artifact: A staged file with that digest and size.
        metadata: Parsed JSON.
        reference: A staged file whose suffix says its format, or None.
    """

    artifact: Path
    digest: Digest
    size_bytes: int
    metadata: object
    reference: Path | None

    def discard(self) -> None:
        """Remove what is still staged."""
        self.artifact.unlink(missing_ok=True)
        if self.reference is not None:
            self.reference.unlink(missing_ok=True)


async def receive_upload(
    pieces: AsyncIterator[bytes], content_type: str, *, settings: ControlSettings, stage: Callable[[], PurePath]
) -> Upload:
    """Receive the parts `artifact`, `metadata` (optional) and `reference` (optional).

    Args:
        stage: Returns the path of a new empty file; blocking.

    Raises:
        MalformedRequest: not multipart, cut short, or a part is unknown, repeated or missing.
        PayloadTooLarge: a part is over its bound.
        BodyStalled: raised by `pieces`.
    """
    receiver = _Receiver(settings, stage)
    try:
        parser = _parser(content_type, receiver)
        async for piece in pieces:
            await anyio.to_thread.run_sync(receiver.take, parser, piece)
        return await anyio.to_thread.run_sync(receiver.finish)
    except BaseException:  # also when the caller hung up and this is cancelled
        receiver.discard()
        raise


class _Part:
    """One part of the body as far as it has come; in memory without a path, else on disk."""

    def __init__(self, name: str, bytes_max: int, path: Path | None) -> None:
        self.name = name
        self.path = path
        self.size_bytes = 0
        self.pending = bytearray()
        self._bytes_max = bytes_max
        self._digest = hashlib.sha256()
        with _writing():
            self._file = None if path is None else path.open("wb")

    def add(self, data: bytes) -> None:
        self.size_bytes += len(data)
        if self.size_bytes > self._bytes_max:
            raise PayloadTooLarge(f"part {self.name!r} is over {self._bytes_max:,} bytes")
        self.pending += data
        if self._file is not None and len(self.pending) >= PENDING_BYTES_MAX:
            self._write()

    def close(self) -> None:
        if self._file is not None:
            self._write()
            with _writing():
                self._file.close()

    def digest(self) -> Digest:
        return Digest(self._digest.hexdigest())

    def discard(self) -> None:
        if self._file is not None and self.path is not None:
            with contextlib.suppress(OSError):  # what it still holds is not wanted
                self._file.close()
            self.path.unlink(missing_ok=True)

    def _write(self) -> None:
        assert self._file is not None
        self._digest.update(self.pending)
        with _writing():
            self._file.write(self.pending)
        self.pending.clear()


class _Receiver:
    """Turns the parser's callbacks into parts."""

    def __init__(self, settings: ControlSettings, stage: Callable[[], PurePath]) -> None:
        self._settings = settings
        self._stage = stage
        self._parts: dict[str, _Part] = {}
        self._now: _Part | None = None
        self._headers: dict[str, bytes] = {}
        self._field = bytearray()
        self._value = bytearray()
        self._has_ended = False
        self._epilogue_bytes = 0

    def begin_part(self) -> None:
        self._headers = {}

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def end_header(self) -> None:
        self._headers[self._field.decode("latin-1").lower()] = bytes(self._value)
        self._field.clear()
        self._value.clear()

    def end_headers(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if name in self._parts:
            raise MalformedRequest(f"multipart: part {name!r} is there twice")
        match name:
            case "artifact":
                part = _Part(name, self._settings.upload_bytes_max, Path(self._stage()))
            case "metadata":
                part = _Part(name, self._settings.json_bytes_max, None)
            case "reference":
                part = _Part(name, self._settings.reference_bytes_max, self._stage_reference(options.get(b"filename", b"")))
            case _:
                raise MalformedRequest(f"multipart: unknown part {name[:40]!r}; known are artifact, metadata, reference")
        self._parts[name] = self._now = part

    def part_data(self, data: bytes, start: int, end: int) -> None:
        assert self._now is not None
        self._now.add(data[start:end])

    def end_part(self) -> None:
        assert self._now is not None
        self._now.close()
        self._now = None

    def end(self) -> None:
        self._has_ended = True

    def take(self, parser: MultipartParser, piece: bytes) -> None:
        if self._has_ended:
            self._epilogue_bytes += len(piece)
            if self._epilogue_bytes > EPILOGUE_BYTES_MAX:
                raise PayloadTooLarge("multipart: the body goes on after its last boundary")
        try:
            parser.write(piece)
        except FormParserError as error:
            raise MalformedRequest(f"multipart: {error}") from error

    def finish(self) -> Upload:
        if not self._has_ended:
            raise MalformedRequest("multipart: the body ends before its last boundary")
        if (artifact := self._parts.get(ARTIFACT)) is None:
            raise MalformedRequest("multipart: the part 'artifact' is missing")
        assert artifact.path is not None
        metadata, reference = self._parts.get(METADATA), self._parts.get(REFERENCE)
        return Upload(
            artifact=artifact.path,
            digest=artifact.digest(),
            size_bytes=artifact.size_bytes,
            metadata={} if metadata is None else _parsed(bytes(metadata.pending)),
            reference=None if reference is None else reference.path,
        )

    def discard(self) -> None:
        for part in self._parts.values():
            part.discard()

    def _stage_reference(self, filename: bytes) -> Path:
        media_type, _ = parse_options_header(self._headers.get("content-type", b""))
        suffix = _SUFFIXES.get(PurePath(filename.decode("utf-8", "replace")).suffix.lower())
        suffix = suffix or _SUFFIXES.get(media_type.decode("latin-1"))
        if suffix is None:
            raise MalformedRequest("part 'reference': send it with a file name that ends in .parquet, .csv, .jsonl or .ndjson")
        staged = Path(self._stage())
        return staged.rename(staged.with_name(staged.name + suffix))


def _parser(content_type: str, receiver: _Receiver) -> MultipartParser:
    media_type, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if media_type != b"multipart/form-data" or not boundary:
        raise MalformedRequest(
            "expected multipart/form-data with a boundary", hint="curl -F artifact=@model.onnx -F metadata='{…}' sends it"
        )
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": receiver.begin_part,
                "on_header_field": receiver.header_field,
                "on_header_value": receiver.header_value,
                "on_header_end": receiver.end_header,
                "on_headers_finished": receiver.end_headers,
                "on_part_data": receiver.part_data,
                "on_part_end": receiver.end_part,
                "on_end": receiver.end,
            },
            max_header_size=HEADER_BYTES_MAX,
        )
    except FormParserError as error:
        raise MalformedRequest(f"multipart: {error}") from error


@contextlib.contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreFailed(
            f"the upload could not be written: {error.strerror}", hint="look at the data directory's disk"
        ) from error


def _parsed(text: bytes) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"part 'metadata': not JSON: {error}") from error
