"""The table of HTTP paths of a serving worker.

Predictions and ground truth are answered here, everything else in `describe.py`. All of them answer an exchange themselves: a
framework's request and response objects cost as much as the whole path of a small model. Every failure is `{"error": …}`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.core.errors import (
    GatewayError,
    MalformedRequest,
    NotOffered,
    PayloadTooLarge,
)
from gateway.metrics.metric import cell
from gateway.metrics.process import UNEXPECTED_ERRORS
from gateway.ports.metrics import MetricsBank
from gateway.serving.answers import Answer, decoded, encoded
from gateway.serving.compression import VARY, WORTH_BYTES, compressed, decompressed, refuse_other_encoding
from gateway.serving.infer import Call, Inference
from gateway.serving.limits import Callers
from gateway.serving.recorder import Recorder
from gateway.serving.refusals import Refusals
from gateway.serving.routing import Router
from gateway.serving.truth import authenticated, record_truth
from gateway.web import ClientGone, Exchange, Handler

_log = logging.getLogger(__name__)
_INFER: Final = re.compile(rb"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")
_ROWS: Final = re.compile(rb"/v1/models/([^/]+):predict")
_TRUTH: Final = b"/api/v1/ground-truth"
_TARGETS_MAX: Final = 4_096  # parsed prediction paths kept; beyond it parsing starts over
_TARGET_LENGTH_MAX: Final = 512  # of a path that is kept
_TRUTH_BYTES_MAX: Final = 4 * 2**20  # 10,000 records of 400 bytes
_OTHER_METHOD: Final = Answer(405, [(b"allow", b"POST")], b'{"error":"Method Not Allowed"}')
_LENGTH_DIGITS_MAX: Final = 18  # of a length in a header; more is no length of anything, and slow to read


@dataclass(frozen=True, slots=True)
class Target:
    """What a prediction path names."""

    route: str
    version: str
    is_rows: bool


class ServingApp:
    """What one worker answers."""

    def __init__(
        self,
        *,
        inference: Inference,
        router: Router,
        recorder: Recorder,
        metrics: MetricsBank,
        body_bytes_max: int,
        callers: Callers | None,
        rest: Handler,
        refusals: Refusals,
    ) -> None:
        """Take what answers.

        Args:
            callers: Admits those of the prediction paths; None where tokens are not looked at.
            rest: Answers every path that is none of this table's.
        """
        self._inference = inference
        self._router = router
        self._recorder = recorder
        self._metrics = metrics
        self._body_bytes_max = body_bytes_max
        self._callers = callers
        self._targets: dict[bytes, Target] = {}
        self._rest = rest
        self._refusals = refusals
        self._unexpected = cell(metrics, UNEXPECTED_ERRORS, "request")

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request."""
        path = exchange.target.path
        target = self._targets.get(path) or self._parsed(path)
        if target is None and path != _TRUTH:
            await self._rest(exchange)
            return
        try:
            answer = await (self._predicted(target, exchange) if target is not None else self._taken(exchange))
        except ClientGone:
            return
        except GatewayError as error:
            self._refusals.count(error, *((target.route, target.version) if target is not None else ()))
            answer = self._refusals.answer(error)
        except Exception:  # noqa: BLE001 - the request loop; counted
            self._unexpected.add(1.0)
            _log.exception("a request failed unexpectedly", extra={"action": "answer"})
            answer = Answer(500, [], b'{"error":"internal error"}')
        await exchange.answer(answer.status, [answer.content_type, *answer.headers], answer.body)

    async def _predicted(self, target: Target, exchange: Exchange) -> Answer:
        """Answer a prediction."""
        if exchange.method != "POST":
            return _OTHER_METHOD
        headers: Mapping[bytes, bytes] = dict(exchange.headers)
        bytes_max = _checked_length(headers, self._body_bytes_max)
        allowance = self._callers.admitted(headers.get(b"authorization")) if self._callers is not None else None
        body = await exchange.body(bytes_max)
        if b"content-encoding" in headers:
            body = await decompressed(body, headers[b"content-encoding"], bytes_max)
        call = Call(
            target.route, target.version, target.is_rows, headers, body, exchange.received_s, caller=exchange, allowance=allowance
        )
        if b"inference-header-content-length" in headers:
            call.head_bytes = _head_bytes(headers[b"inference-header-content-length"], len(body), is_rows=target.is_rows)
        if self._inference.sheds_until_s:
            self._inference.refuse_early(call)
        request = decoded(call)
        answer = encoded(call, request, await self._inference.infer(call, request))
        if len(answer.body) >= WORTH_BYTES:
            answer.headers = [*answer.headers, VARY]
            if b"accept-encoding" in headers:
                answer.body, encoding = await compressed(answer.body, headers[b"accept-encoding"])
                if encoding:
                    answer.headers.append((b"content-encoding", encoding))
        return answer

    async def _taken(self, exchange: Exchange) -> Answer:
        """Take ground truth."""
        if exchange.method != "POST":
            return _OTHER_METHOD
        headers: Mapping[bytes, bytes] = dict(exchange.headers)
        bytes_max = _checked_length(headers, min(self._body_bytes_max, _TRUTH_BYTES_MAX))
        principal = authenticated(headers.get(b"authorization"), self._router.keys)
        body = await exchange.body(bytes_max)
        if b"content-encoding" in headers:
            body = await decompressed(body, headers[b"content-encoding"], bytes_max)
        return Answer(200, [], await record_truth(body, principal, self._recorder, self._metrics))

    def _parsed(self, path: bytes) -> Target | None:
        """Return what a path names, remembered, or None when it is no prediction path."""
        if found := _INFER.fullmatch(path):
            target = Target(_name(found[1]), _name(found[2] or b""), is_rows=False)
        elif found := _ROWS.fullmatch(path):
            target = Target(_name(found[1]), "", is_rows=True)
        else:
            return None
        if len(path) <= _TARGET_LENGTH_MAX:
            if len(self._targets) >= _TARGETS_MAX:
                self._targets.clear()
            self._targets[path] = target
        return target


def _name(quoted: bytes) -> str:
    return unquote(quoted.decode("latin-1"), errors="replace")


def _checked_length(headers: Mapping[bytes, bytes], bytes_max: int) -> int:
    """Return the bound of a body, having refused by its headers one that is over it or whose coding is not read here."""
    if b"content-encoding" in headers:
        refuse_other_encoding(headers[b"content-encoding"])
    length = headers.get(b"content-length", b"0")
    if len(length) > _LENGTH_DIGITS_MAX:
        raise MalformedRequest(f"Content-Length: expected at most {_LENGTH_DIGITS_MAX} digits")
    if int(length) > bytes_max:
        raise PayloadTooLarge(f"the body is over {bytes_max:,} bytes")
    return bytes_max


def _head_bytes(length: bytes, body_bytes: int, *, is_rows: bool) -> int | None:
    """Return the length of the JSON part, or None when it is the whole body."""
    if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or int(length) > body_bytes:
        raise MalformedRequest("Inference-Header-Content-Length: expected a length within the body")
    if body_bytes and int(length) == body_bytes:
        return None
    if is_rows:
        raise NotOffered("rows have no binary form; send JSON")
    return int(length)
