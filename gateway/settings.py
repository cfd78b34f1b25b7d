"""Every setting, once: its unit, its default and the reason for it.

Read from a TOML file (`--config`), then the environment (`HEADGATE_<SECTION>_<NAME>`), then the command line; later ones win.
An unknown name or a value out of range stops the start with a message that names it; variables of the environment that name no
section are left alone, since an orchestrator sets such for every service that it knows.
"""

from __future__ import annotations

import dataclasses
import enum
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gateway.core.errors import MalformedRequest
from gateway.core.fields import Fields, Json

ENVIRONMENT_PREFIX = "HEADGATE_"
RANGES = {  # of the integers that are not simply at least 1
    "serving.port": (0, 65_535),  # 0: any free port
    "serving.threads_max": (0, 64),  # 0: by the machine's cores; beyond 64 runs the in-flight file has no room
    "serving.workers": (1, 256),  # more than any machine's worth of cores
    "serving.grpc_port": (-1, 65_535),  # -1: none
    "control.port": (0, 65_535),
    "log.free_bytes_min": (0, 1 << 62),  # 0: never mind the file system
    "archive.niceness": (0, 19),
    "monitor.processes": (1, 64),  # each reads the whole log
    "monitor.niceness": (0, 19),
    "pickled.niceness": (0, 19),
    "pickled.cores": (1, 1_024),
}
LEAST = {  # of the times and costs that must not be as little as nothing
    "serving.body_timeout_s": 0.1,  # below it a body over a slow line is a stalled one
    "serving.header_timeout_s": 0.1,
    "serving.keep_alive_s": 0.1,  # below it a client's next request meets a closed connection
    "serving.fault_rest_first_s": 0.001,  # at nothing every request tries it
    "serving.queue_wait_share": 0.01,  # at nothing a version that runs takes no other request
    "control.body_timeout_s": 0.1,
    "control.validation_timeout_s": 1.0,  # the validation process alone takes half of that to start
    "control.question_timeout_s": 1.0,  # its process alone takes a good part of that to start
    "control.prepare_timeout_s": 0.1,
    "log.segment_age_s": 0.1,  # at nothing every append is a file of its own
    "log.heartbeat_s": 0.01,  # at nothing an idle worker does nothing but write
    "archive.poll_s": 0.01,  # at nothing an idle process takes a core
    "monitor.poll_s": 0.001,
    "monitor.checkpoint_s": 0.01,
    "monitor.publish_s": 0.01,
    "monitor.epoch_s": 1.0,  # no key counts twice within it
    "monitor.events_per_s_max": 1_000.0,  # below it hardly anything is looked at
    "monitor.false_alarm_events": 100.0,  # below it drift is a matter of chance
    "monitor.drill_share": 0.0001,  # below it a drill takes an hour
    "monitor.retraining_gap_s": 1.0,  # at nothing each rollout in the same world asks again
    "pickled.load_timeout_s": 1.0,  # importing scikit-learn alone may take three
    "pickled.predict_timeout_s": 0.01,
    "serving.run_hung_s": 0.5,  # a run may wait for a core, too
    "supervisor.hang_s": 0.5,  # below it a worker that is well but waits for a core is killed
    "supervisor.restart_backoff_s": 0.001,
    "supervisor.restart_backoff_max_s": 0.1,
}


class Durability(enum.Enum):
    """What a record survives once its answer has left."""

    OS = "os"  # the death of the process
    DISK = "disk"  # power loss as well: one fsync per group of records


class WhenFull(enum.Enum):
    """What happens to predictions when the log has no room."""

    REJECT = "reject"  # 503: no answer without a record
    CONTINUE = "continue"  # answer, and count what was not logged


class AccessLog(enum.Enum):
    """Which reads over the admin port stand in the journal."""

    ALL = "all"
    PREDICTIONS = "predictions"  # those of logged inputs and answers alone
    NONE = "none"


class PredictionTokens(enum.Enum):
    """Whether callers of the prediction paths show a token."""

    OFF = "off"  # tokens are not looked at
    OPTIONAL = "optional"  # a token that is sent must be valid, and its limits hold
    REQUIRED = "required"  # 401 without one


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """The prediction side."""

    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int = -1  # none; 0 is any free one; needs the extra `grpc`
    grpc_certificate: str = ""  # a PEM file, the chain; with it and its key the gRPC port speaks TLS alone
    grpc_key: str = ""  # a PEM file without a password
    workers: int = 1  # processes; one core each is what a worker can use
    prediction_tokens: PredictionTokens = PredictionTokens.OFF  # predicting is open to whoever reaches the port
    body_bytes_max: int = 64 * 2**20  # Triton's default for a JSON body
    body_timeout_s: float = 10.0  # between two pieces of a body; slower is stalled
    header_timeout_s: float = 10.0  # from connection or last answer's end of headers begun to headers complete
    keep_alive_s: float = 75.0  # idle connections; above the usual 60 s of load balancers
    connections_max: int = 1_000  # at once per worker
    queue_rows_max: int = 4_096  # waiting per version and worker; at 1 ms a row 4 s, under the default deadline
    queue_wait_share: float = 0.4  # of a request's time that its expected wait may take; what waits is gone 4 s after an overload
    batch_rows_max: int = 64  # rows joined into one run of a thread; beyond it latency grows faster than throughput
    threads_max: int = 0  # at once for one expensive version on one worker; 0: the worker's share of the cores, less one
    inline_us_max: float = 1_000.0  # a version whose measured row costs more runs in a thread, not on the event loop
    inline_turn_us_max: float = 2_000.0  # rows × measured cost that may run inline in one loop turn
    shadow_queue_max: int = 1_000  # copies waiting per worker; beyond it copies are dropped and counted
    shadow_queue_bytes_max: int = 64 * 2**20  # of the inputs that they hold: as much as one body may be
    fault_window: int = 10  # n of the worker's own k-of-n rule
    faults_max: int = 5  # k: hard faults among the last n that take a version out of rotation on this worker
    fault_rest_first_s: float = 0.05  # until one request tries it again; 8 tries within 13 s, which convict it
    fault_rest_s: float = 30.0  # what the rests double up to while it fails: then hardly a caller waits for a failover
    run_hung_s: float = 60.0  # a run that goes on for so long never ends; its worker is killed like one whose loop hangs
    poison_s: float = 3_600.0  # for which an input that processes died of is refused; 0: never
    drain_s: float = 20.0  # after SIGTERM, for what is in flight
    kept_names_max: int = 100  # routes and models beyond which one that has a single version is loaded when it is called
    keep_warm: str = ""  # pins, with commas between: a model for its champion, or model:version; never evicted
    model_memory_bytes_max: int = 4 * 2**30  # of one worker, its versions' processes included; the longest unused go first
    warm_runs: int = 5  # predictions on made-up rows before a version is ready


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """The admin side."""

    host: str = "127.0.0.1"
    port: int = 8081
    upload_bytes_max: int = 2 * 2**30  # of one artifact; protobuf's own limit
    reference_bytes_max: int = 256 * 2**20
    json_bytes_max: int = 2**20  # of any other body; a route with every variant and shadow takes 5 kB
    body_timeout_s: float = 10.0  # between two pieces of a body; slower is stalled
    validations_max: int = 2  # at once; each may use validation_memory_bytes and a core
    validation_timeout_s: float = 60.0
    validation_memory_bytes: int = 4 * 2**30  # address space of the validation process
    questions_max: int = 1  # in SQL, at once; each may use question_memory_bytes and two cores
    question_timeout_s: float = 20.0  # a mean over five million records takes one
    question_memory_bytes: int = (
        2**30
    )  # of DuckDB, whose process has 2 GiB more; what does not fit is refused, not spilled to disk
    question_rows_max: int = 10_000  # of one answer; beyond it there is the export
    question_bytes_max: int = 16 * 2**20  # of one answer, which is built in memory
    prepare_timeout_s: float = 30.0  # for every worker to load and warm what a change needs
    access_log: AccessLog = AccessLog.ALL  # 200 bytes a read, and few read


@dataclass(frozen=True, slots=True)
class LogSettings:
    """The prediction log."""

    durability: Durability = Durability.OS
    when_full: WhenFull = WhenFull.REJECT
    segment_bytes_max: int = 64 * 2**20  # rotation by size: about 100,000 records of 20 features
    segment_age_s: float = 300.0  # rotation by age, so that the archive is never far behind
    bytes_max: int = 20 * 2**30  # of all segments of one worker; beyond it the log is full
    free_bytes_min: int = 256 * 2**20  # of the file system; below it the log is full
    heartbeat_s: float = 0.25  # of an idle worker; bounds how far the merge lags behind
    dropped: str = ""  # MODEL/COLUMN, ROUTE/COLUMN or */COLUMN with commas between: never written
    hashed: str = ""  # likewise: a keyed hash is written; also for the column `assignment_key`
    secret_file: str = ""  # of 16 to 64 bytes, which hashes are keyed with; `log.secret` in the data directory without one


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """Columnar history."""

    poll_s: float = 2.0
    keep_segments_s: float = 3_600.0  # after archive and monitor have passed one
    keep_s: float = 90 * 86_400.0  # of Parquet; a quarter
    memory_bytes: int = 512 * 2**20  # DuckDB's bound; a record of more than a sixth is archived without its tensors
    niceness: int = 10


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """The loop."""

    processes: int = 1  # each takes its part of the routes and can use one core
    poll_s: float = 0.03  # median lag 12 ms at 20 ms polls, 4 µs CPU a row
    page_records: int = 1_000
    checkpoint_s: float = 2.0  # most work repeated after a crash
    publish_s: float = 1.0  # readings for people
    epoch_s: float = 600.0  # a key's outcomes count once per epoch; see docs/decisions
    events_per_s_max: float = 400_000.0  # feature-events; 9,700 predictions of 20 features. Above it a share is looked at
    truth_wait_max: int = 1_000_000  # rows held for late ground truth, the oldest first dropped; the archive joins those
    false_alarm_events: float = 100_000.0  # mean distance between false drift alarms of one route
    drill_s: float = 3_600.0  # between two drills with made-up harm, A/A drills in between; 0 turns all drills off
    drill_share: float = 0.005  # of the time that drills take at most; one with made-up harm then takes a minute
    retraining_gap_s: float = 86_400.0  # between two requests of one route to train its model anew; training takes hours
    niceness: int = 5  # answers come first; on a full core the monitor still gets a quarter of what serving gets


class Confinement(enum.Enum):
    """What happens where the kernel cannot confine a pickled model."""

    REQUIRE = "require"  # the version is refused
    WARN = "warn"  # it runs with what there is; the journal and the version say what is missing
    OFF = "off"  # nothing is confined, whatever the kernel has


@dataclass(frozen=True, slots=True)
class PickledSettings:
    """The processes of pickled models."""

    confinement: Confinement = Confinement.REQUIRE
    interpreters: str = ""  # paths that versions may bring, separated by colons; the gateway's own needs no naming
    memory_bytes: int = 2**30  # of one process, beyond what its imports take
    cores: int = 1  # that one process may run on, and threads of its numerical libraries; more per row is seldom faster
    niceness: int = 1  # of its processes; a little behind the gateway's own
    scratch_file_bytes_max: int = 16 * 2**20  # of one file in its scratch directory; models seldom write at all
    message_bytes_max: int = 64 * 2**20  # one prediction's tensors, as serving.body_bytes_max
    load_timeout_s: float = 30.0  # to import and to unpickle; a forest of 500 trees takes 2 s
    predict_timeout_s: float = 2.0  # then the process is killed; leaves another version 3 s of a route's default deadline


@dataclass(frozen=True, slots=True)
class NoticesSettings:
    """Who is told."""

    file: str = ""  # of TOML, a table for each channel; nobody is told without one


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Spans of predictions."""

    endpoint: str = ""  # where a collector takes traces over OTLP/HTTP, e.g. http://127.0.0.1:4318/v1/traces; none without one
    share: float = 0.01  # of the requests that bring no traceparent; those that do are traced if it says so


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """The processes."""

    hang_s: float = 10.0  # a worker whose event loop did not turn for so long is killed
    restart_backoff_s: float = 0.05  # first; doubles with each death within a minute
    restart_backoff_max_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of them."""

    data_dir: Path = Path("headgate-data")
    serving: ServingSettings = field(default_factory=ServingSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    log: LogSettings = field(default_factory=LogSettings)
    archive: ArchiveSettings = field(default_factory=ArchiveSettings)
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    pickled: PickledSettings = field(default_factory=PickledSettings)
    notices: NoticesSettings = field(default_factory=NoticesSettings)
    tracing: TracingSettings = field(default_factory=TracingSettings)
    supervisor: SupervisorSettings = field(default_factory=SupervisorSettings)


def load_settings(config: Path | None, environment: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """Return the settings of a start.

    Args:
        config: A TOML file, or None.
        environment: Usually `os.environ`.
        overrides: From the command line, keyed like `serving.port`.

    Raises:
        MalformedRequest: a name is unknown or a value is wrong; the message names the setting and where it came from.
    """
    settings = Settings()
    if config is not None:
        try:
            settings = _with_file(settings, tomllib.loads(config.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise MalformedRequest(f"{config}: {error}") from error
    settings = _with_environment(settings, environment)
    for dotted, value in overrides.items():
        settings = _with_value(settings, dotted, value, "command line")
    return settings


def settings_body(settings: Settings) -> Json:
    """Return settings as plain values; `settings_from_body` reads them back in a child process."""
    return typing.cast("Json", _plain(dataclasses.asdict(settings)))


def settings_from_body(body: Mapping[str, Any]) -> Settings:
    """Read what `settings_body` wrote."""
    return _with_file(Settings(), body)


def _with_file(settings: Settings, body: Mapping[str, Any]) -> Settings:
    for name, value in body.items():
        if isinstance(value, Mapping):
            for inner, inner_value in value.items():
                settings = _with_value(settings, f"{name}.{inner}", inner_value, "configuration")
        else:
            settings = _with_value(settings, name, value, "configuration")
    return settings


def _with_environment(settings: Settings, environment: Mapping[str, str]) -> Settings:
    for name, value in sorted(environment.items()):
        if not name.startswith(ENVIRONMENT_PREFIX):
            continue
        section, _, rest = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("_")
        dotted = f"{section}.{rest}" if dataclasses.is_dataclass(getattr(settings, section, None)) else f"{section}_{rest}"
        if dotted.split(".", maxsplit=1)[0] in {f.name for f in dataclasses.fields(settings)}:
            settings = _with_value(settings, dotted, value, f"environment variable {name}")
    return settings


def _with_value(settings: Settings, dotted: str, value: object, source: str) -> Settings:
    section, _, name = dotted.rpartition(".")
    owner: Any = getattr(settings, section, None) if section else settings
    is_known = dataclasses.is_dataclass(owner) and name in {f.name for f in dataclasses.fields(owner)}
    if not is_known or dataclasses.is_dataclass(getattr(owner, name)):
        raise MalformedRequest(f"{source}: there is no setting {dotted!r}")
    changed: Any = replace(typing.cast("Any", owner), **{name: _converted(getattr(owner, name), value, dotted, source)})
    whole: dict[str, Any] = {section: changed}
    return typing.cast("Settings", changed) if not section else replace(settings, **whole)


def _converted(default: object, value: object, dotted: str, source: str) -> object:
    fields = Fields({dotted: _unquoted(default, value)}, source)
    match default:
        case enum.Enum():
            return fields.choice(dotted, type(default))
        case Path():
            return Path(fields.text(dotted))
        case bool():
            return fields.boolean(dotted)
        case int():
            return fields.integer(dotted, *RANGES.get(dotted, (1, 1 << 62)))
        case float():
            return fields.number(dotted, LEAST.get(dotted, 0.0), 1e12)
        case _:
            return fields.text(dotted)


def _unquoted(default: object, value: object) -> object:
    """Return text from the environment as a number or a truth where the setting is one, and a path as text."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(value.lower(), value) if isinstance(value, str) else value
    if isinstance(value, str) and isinstance(default, int | float):
        try:
            return type(default)(value)
        except ValueError:
            return value
    return value


def _plain(value: object) -> object:
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case enum.Enum():
            return value.value
        case Path():
            return str(value)
        case _:
            return value
