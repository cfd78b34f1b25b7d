"""What a worker answers besides predictions and ground truth: the protocol's health, metadata and extensions.

Paths are matched as they were sent and names decoded once, so that an encoded slash stays a part of its name. Every failure is
`{"error": …}`. Looking needs no token; loading and unloading does, because it takes memory and time from what is served.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

import orjson

from gateway.core.access import Principal, Scope
from gateway.core.errors import GatewayError, MalformedRequest, NotOffered, NotReady
from gateway.core.fields import Fields, Json, checked_name
from gateway.core.models import Version
from gateway.core.version_bodies import signature_body
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.ports.metrics import MetricsBank
from gateway.serving.answers import Answer
from gateway.serving.compression import decompressed, refuse_other_encoding
from gateway.serving.configuration import configuration, platform
from gateway.serving.pinned import PinnedPools
from gateway.serving.recorder import Recorder
from gateway.serving.repository import Repository
from gateway.serving.routing import Router
from gateway.serving.shared import Shared
from gateway.serving.statistics import Totals, counted_versions, model_stat
from gateway.serving.truth import authenticated
from gateway.web import ClientGone, Exchange

_log = logging.getLogger(__name__)
_EXTENSIONS: Final = (  # exactly what works
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
_GET: Final[tuple[str, ...]] = ("GET", "HEAD")
_POST: Final[tuple[str, ...]] = ("POST",)
_MODEL: Final = rb"/v2/models/([^/]+)"
_VERSION: Final = _MODEL + rb"(?:/versions/([^/]+))?"
_REPOSITORY: Final = rb"/v2/repository/models/([^/]+)"
_BODY_BYTES_MAX: Final = 2**20  # of a request to the repository, which holds a flag or a version's name
_JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as an endpoint sees it.

    Attributes:
        name: The route's or model's name; empty where the path has none.
        version: The version the caller named, or empty.
        headers: By lower-case name.
        body: Reads what was sent along.
    """

    name: str
    version: str
    headers: Mapping[bytes, bytes]
    body: Callable[[], Awaitable[Json]]


Endpoint = Callable[[Asked], Awaitable[object]]  # returns what the answer's JSON says


class Description:
    """What one worker answers besides predictions and ground truth."""

    def __init__(
        self,
        *,
        router: Router,
        pinned: PinnedPools,
        repository: Repository,
        statistics: Shared[Totals],
        recorder: Recorder,
        metrics: MetricsBank,
        batch_rows_max: int,
        body_bytes_max: int,
        is_draining: Callable[[], bool],
        refused: Callable[[GatewayError], Answer],
    ) -> None:
        self._router = router
        self._pinned = pinned
        self._repository = repository
        self._statistics = statistics
        self._recorder = recorder
        self._batch_rows_max = batch_rows_max
        self._body_bytes_max = body_bytes_max
        self._is_draining = is_draining
        self._refused = refused
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "request")
        gets: list[tuple[bytes, Endpoint]] = [
            (rb"/v2/?", self.server),
            (rb"/v2/health/live", self.live),
            (rb"/v2/health/ready", self.ready),
            (rb"/v2/models/stats", self.all_stats),
            (_VERSION, self.model),
            (_VERSION + rb"/ready", self.model_ready),
            (_VERSION + rb"/config", self.config),
            (_VERSION + rb"/stats", self.stats),
            (rb"/", self.alive),  # the first version of KServe's protocol, from here on
            (rb"/v1/models", self.names),
            (rb"/v1/models/([^/:]+)", self.model_ready),
        ]
        posts: list[tuple[bytes, Endpoint]] = [
            (rb"/v2/repository/index", self.index),
            (_REPOSITORY + rb"/load", self.load),
            (_REPOSITORY + rb"/unload", self.unload),
        ]
        self._paths = [
            (re.compile(path), methods, endpoint) for methods, paths in ((_GET, gets), (_POST, posts)) for path, endpoint in paths
        ]

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        try:
            answer = await self._answer(exchange)
        except ClientGone:
            return
        except GatewayError as error:
            answer = self._refused(error)
        except Exception:  # noqa: BLE001 - the request loop; counted
            self._unexpected.add(1.0)
            _log.exception("a request failed unexpectedly", extra={"action": "answer"})
            answer = Answer(500, [], b'{"error":"internal error"}')
        await exchange.answer(answer.status, [_JSON, *answer.headers], answer.body)

    async def _answer(self, exchange: Exchange) -> Answer:
        for pattern, methods, endpoint in self._paths:
            if (found := pattern.fullmatch(exchange.target.path)) is None:
                continue
            if exchange.method not in methods:
                return Answer(405, [(b"allow", ", ".join(methods).encode())], b'{"error":"Method Not Allowed"}')
            name, version = (*map(_decoded, found.groups()), "", "")[:2]
            headers = dict(exchange.headers)
            asked = Asked(name, version, headers, functools.partial(_body, exchange, headers))
            return Answer(200, [], orjson.dumps(await endpoint(asked)))
        return Answer(404, [], b'{"error":"Not Found"}')

    async def live(self, _: Asked) -> Json:
        """Return that it runs."""
        return {"live": True}

    async def alive(self, _: Asked) -> Json:
        """Return that it runs, in the words of the protocol's first version."""
        return {"status": "alive"}

    async def names(self, _: Asked) -> Json:
        """Return every name that can be asked for."""
        return {"models": self._repository.names()}

    async def ready(self, _: Asked) -> Json:
        """Return that it takes requests, or raise `NotReady`."""
        self._refuse_while_draining()
        if not self._router.is_ready:
            raise NotReady("not every model that should serve is loaded")
        if self._recorder.is_refusing:
            raise NotReady("the prediction log cannot be written")
        return {"ready": True}

    async def server(self, _: Asked) -> Json:
        """Return its name, version and extensions."""
        return {"name": "headgate", "version": importlib.metadata.version("headgate"), "extensions": list(_EXTENSIONS)}

    async def model_ready(self, asked: Asked) -> Json:
        """Return that what answers is warm, or raise `NotReady`."""
        described = await self._described(asked)
        self._refuse_while_draining()
        table = self._router.table
        is_warm = (described.model, described.version) in table.pools
        retry_in_s = self._repository.retry_in_s(described.model, described.version)
        if not is_warm and (asked.version or not table.can_answer(table.looked_at(asked.name))):
            raise NotReady(f"{asked.name!r} is not loaded", retry_after_s=retry_in_s)
        if not is_warm and self._repository.has_failed(described.model, described.version):
            raise NotReady(f"{asked.name!r} failed to load", retry_after_s=retry_in_s)
        return {"name": asked.name, "ready": True}

    async def model(self, asked: Asked) -> Json:
        """Return a version's inputs and outputs."""
        described = await self._described(asked)
        return {
            "name": asked.name,
            "versions": [described.version] if asked.version else self._repository.warm_versions(described.model),
            "platform": platform(described),
            **signature_body(described.signature),
            "properties": {"digest": described.digest, "provider": self._provider(described)},
        }

    async def config(self, asked: Asked) -> Json:
        """Return a version's configuration."""
        described = await self._described(asked)
        return configuration(
            asked.name,
            described,
            batch_rows_max=self._batch_rows_max,
            body_bytes_max=self._body_bytes_max,
            provider=self._provider(described),
        )

    async def stats(self, asked: Asked) -> Json:
        """Return the statistics of one name."""
        described = await self._described(asked)
        totals = await self._statistics.latest()
        versions = [described.version] if asked.version else self._stat_versions(totals, asked.name)
        return {"model_stats": [model_stat(totals, asked.name, described.model, version) for version in versions]}

    async def all_stats(self, _: Asked) -> Json:
        """Return the statistics of every name."""
        totals = await self._statistics.latest()
        table = self._router.table.table
        return {
            "model_stats": [
                model_stat(totals, name, table.route(name).model, version)
                for name in self._repository.names()
                for version in self._stat_versions(totals, name)
            ]
        }

    async def index(self, asked: Asked) -> list[Json]:
        """Return the repository's rows."""
        is_ready_only = Fields(await asked.body()).boolean("ready", False)
        return await self._repository.index(is_ready_only=is_ready_only)

    async def load(self, asked: Asked) -> Json:
        """Hold a version warm."""
        principal, name = self._operator(asked), checked_name(asked.name, "the model's name")
        await self._repository.load(name, _version_named(await asked.body()), principal)
        return {}

    async def unload(self, asked: Asked) -> Json:
        """Let a version go."""
        principal, name = self._operator(asked), checked_name(asked.name, "the model's name")
        await self._repository.unload(name, _version_named(await asked.body()), principal)
        return {}

    async def _described(self, asked: Asked) -> Version:
        """Return the version that the caller named, from the table or the registry, or the fallback's."""
        route = self._router.table.looked_at(asked.name)
        if not asked.version:
            return route.fallback.version
        key = (route.route.model, asked.version)
        known = self._router.table.table.versions.get(key)
        return known if known is not None else await self._pinned.version(*key)

    def _provider(self, version: Version) -> str:
        """Return what a version runs on here; where it is not warm, what it names first."""
        pool = self._router.table.pools.get((version.model, version.version))
        return version.provider if pool is None else pool.provider

    def _stat_versions(self, totals: Totals, name: str) -> list[str]:
        """Return the versions that a route needs or that answered under it, in order of name."""
        return sorted({*self._router.table.table.route(name).needs(), *counted_versions(totals, name)})

    def _operator(self, asked: Asked) -> Principal:
        principal = authenticated(asked.headers.get(b"authorization"), self._router.keys)
        principal.require(Scope.OPERATE)
        return principal

    def _refuse_while_draining(self) -> None:
        if self._is_draining():
            raise NotReady("draining")


def _decoded(quoted: bytes | None) -> str:
    return unquote((quoted or b"").decode("latin-1"), errors="replace")


async def _body(exchange: Exchange, headers: Mapping[bytes, bytes]) -> Json:
    """Return a request's object; an empty body is an empty one."""
    encoding = headers.get(b"content-encoding", b"")
    refuse_other_encoding(encoding)
    body = await decompressed(await exchange.body(_BODY_BYTES_MAX), encoding, _BODY_BYTES_MAX)
    try:
        content = orjson.loads(body) if body else {}
    except orjson.JSONDecodeError as error:
        raise MalformedRequest(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise MalformedRequest("body: expected an object")
    return content


def _version_named(body: Json) -> str:
    """Return the version in a load's or unload's parameters, or nothing.

    Raises:
        MalformedRequest: a parameter is of another type than the protocol's.
        NotOffered: it brings files or a configuration, which come with a registration.
    """
    parameters = Fields(body).mapping("parameters", {})
    for key, value in parameters.items():
        if key == "config" or key.startswith("file:"):
            raise NotOffered(
                "files and configurations are not taken over the protocol",
                hint="register a version through the admin API; what is registered never changes",
            )
        if not isinstance(value, str | int | float):
            raise MalformedRequest(f"parameters.{key[:200]}: expected a string, a number or a boolean")
    fields = Fields(parameters, "parameters")
    fields.boolean("unload_dependents", False)  # no version has dependents here
    return fields.text("version", "", length_max=200)
