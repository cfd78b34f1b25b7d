"""What several planes are made of: runtimes, the log's writer, and what settings name outside of them."""

from __future__ import annotations

import os
import secrets
import string
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from adapters.clock import SystemClock
from adapters.logs.segments import SegmentWriter
from adapters.runtimes.pickles.limits import Limits
from adapters.stores.artifacts import DirectoryArtifacts
from gateway.compose.directory import DataDirectory
from gateway.core.errors import MalformedRequest
from gateway.core.models import Runtime as RuntimeName
from gateway.core.notices import Channel, channels_from_body
from gateway.core.privacy import Privacy
from gateway.ports.metrics import Cell
from gateway.ports.notices import Sender
from gateway.ports.runtimes import Runtime
from gateway.settings import Settings


def worker_names(settings: Settings) -> tuple[str, ...]:
    """Return the serving workers' names, which are also their streams' in the log."""
    return tuple(f"w{number}" for number in range(settings.serving.workers))


def channels_of(settings: Settings, environment: Mapping[str, str]) -> dict[str, tuple[Channel, Sender]]:
    """Return the channels of the notices' file with what sends to them; `${NAME}` in an address comes from the environment.

    Raises:
        MalformedRequest: the file cannot be read, a channel is wrong, or a variable is not set.
    """
    if not settings.notices.file:
        return {}
    from adapters.senders.opened import opened_sender

    try:
        channels = channels_from_body(tomllib.loads(Path(settings.notices.file).read_text()))
        filled = [replace(one, url=string.Template(one.url).substitute(environment)) for one in channels]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValueError) as error:
        raise MalformedRequest(f"notices.file {settings.notices.file}: {error}") from error
    except KeyError as error:
        raise MalformedRequest(f"notices.file {settings.notices.file}: the environment has no {error.args[0]}") from error
    return {one.name: (one, opened_sender(one)) for one in filled}


def privacy_of(settings: Settings) -> Privacy | None:
    """Return what the log may not hold, or None when it may hold everything; the first start makes a secret if there is none.

    Raises:
        MalformedRequest: a rule is wrong, or the secret cannot be read.
    """
    log = settings.log
    if not log.dropped and not log.hashed:
        return None
    data = DataDirectory(settings.data_dir)
    path = Path(log.secret_file) if log.secret_file else data.secret
    try:
        if not log.secret_file and not path.exists():
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode())
        return Privacy(dropped=log.dropped, hashed=log.hashed, secret=path.read_bytes().strip())
    except OSError as error:
        raise MalformedRequest(f"log.secret_file {path}: {error}") from error


def runtimes_of(
    settings: Settings, artifacts: DirectoryArtifacts, scratch: Path, unexpected: Cell | None = None
) -> dict[RuntimeName, Runtime]:
    """Return what runs versions in this process; pickled ones have theirs, with room of their own in `scratch`.

    Args:
        unexpected: Counts what goes wrong without a name while their processes are kept.
    """
    from adapters.runtimes.chained import ChainedRuntime
    from adapters.runtimes.onnx import OnnxRuntime
    from adapters.runtimes.pickled import PickledRuntime

    runtimes: dict[RuntimeName, Runtime] = {
        RuntimeName.ONNX: OnnxRuntime(),
        RuntimeName.PICKLED: PickledRuntime(
            limits=limits_of(settings, scratch),
            interpreter=sys.executable,
            interpreters=interpreters_of(settings),
            unexpected=unexpected,
        ),
    }
    return {**runtimes, RuntimeName.CHAINED: ChainedRuntime(runtimes, artifacts)}


def limits_of(settings: Settings, scratch: Path) -> Limits:
    """Return what holds the processes that unpickle, whose files go to `scratch`."""
    pickled = settings.pickled
    return Limits(
        confinement=pickled.confinement.value,
        scratch=scratch.absolute(),
        memory_bytes=pickled.memory_bytes,
        cores=pickled.cores,
        niceness=pickled.niceness,
        scratch_file_bytes_max=pickled.scratch_file_bytes_max,
        message_bytes_max=pickled.message_bytes_max,
        load_timeout_s=pickled.load_timeout_s,
        predict_timeout_s=pickled.predict_timeout_s,
    )


def interpreters_of(settings: Settings) -> tuple[str, ...]:
    """Return the interpreters that a pickled version may bring."""
    return tuple(path for path in settings.pickled.interpreters.split(":") if path)


def log_writer(settings: Settings, stream: str) -> SegmentWriter:
    """Return the writer of a stream of the prediction log."""
    log = settings.log
    return SegmentWriter(
        DataDirectory(settings.data_dir).log,
        stream,
        segment_bytes_max=log.segment_bytes_max,
        segment_age_s=log.segment_age_s,
        bytes_max=log.bytes_max,
        free_bytes_min=log.free_bytes_min,
        clock=SystemClock(),
    )
