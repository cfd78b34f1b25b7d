"""The status page over HTTP: who may look, which page, and the headers that let a browser load nothing but it.

Every page runs in the threads of quick operations. Errors have the status of the admin API's and are pages too.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import parse_qs

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.responses import Response

from gateway.control.auth import key_of, principal_of
from gateway.control.calls import Control, Parameter, ParameterKind, query_of
from gateway.control.reads import seen_as
from gateway.control.status.frame import asking, framed, refusing, route_path
from gateway.control.status.one import one_route
from gateway.control.status.overview import overview
from gateway.control.status.visits import COOKIE, PATH, VISIT_S, Visits
from gateway.core.access import Principal, Scope
from gateway.core.errors import Denied, GatewayError, MalformedRequest
from gateway.drawing.style import style_source
from gateway.web import Receive, read_body, status_of

FORM_BYTES_MAX: Final = 4_096  # a token and an address
LED_ON: Final = 303  # to another page; nothing is shown by itself
Page = Callable[[Request], Awaitable[Response]]
_QUERY: Final = (
    Parameter("after", ParameterKind.TEXT, "Routes after this one.", ""),
    Parameter("fresh", ParameterKind.BOOLEAN, "Whether the page loads itself again.", False),
)
_OURS: Final = re.compile(rf"{PATH}(/routes/[\w.~%-]{{1,600}})?", re.ASCII)


class Site:
    """The pages by their paths."""

    def __init__(self, control: Control, *, visit_secret: bytes, limiter: anyio.CapacityLimiter) -> None:
        self._control = control
        self._limiter = limiter
        self._visits = Visits(control.registry, secret=visit_secret, clock=control.clock)

    def pages(self) -> Mapping[tuple[str, str], Page]:
        """Return what answers each method and path."""
        return {
            ("GET", "/"): self._lead,
            ("GET", PATH): self._show,
            ("GET", f"{PATH}/routes/{{route:path}}"): self._show,
            ("POST", f"{PATH}/enter"): self._enter,
            ("POST", f"{PATH}/leave"): self._leave,
        }

    async def _lead(self, _: Request) -> Response:
        return _led(PATH)

    async def _show(self, request: Request) -> Response:
        try:
            return _page(await anyio.to_thread.run_sync(self._shown, request, limiter=self._limiter))
        except Denied as error:
            at = _address(request)
            why = error.message if request.cookies.get(COOKIE) else ""
            return _page(asking(to=at if _OURS.fullmatch(at) else PATH, why=why), status_of(error))
        except GatewayError as error:
            return _page(refusing(status_of(error), error.message, error.hint), status_of(error))

    def _shown(self, request: Request) -> str:
        self._admit(request)
        query = query_of(_QUERY, request.query_params.multi_items())
        after, name = str(query["after"]), request.path_params.get("route")
        content = overview(self._control, after) if name is None else one_route(self._control, name)
        title, now_s = name or "Status", self._control.clock.now_s()
        return framed(title, content, at=_address(request), now_s=now_s, is_fresh=query["fresh"] is True)

    def _admit(self, request: Request) -> None:
        """Let in a token in the header, as everywhere, or a visit."""
        if (header := request.headers.get("authorization")) is not None:
            principal = principal_of(self._control.registry, header)
        else:
            principal = self._visits.visitor(request.cookies.get(COOKIE, ""))
        seen_as(request, principal)
        principal.require(Scope.READ)

    async def _enter(self, request: Request) -> Response:
        receive: Receive = request.receive
        to = PATH
        try:
            fields = _fields(await read_body(receive, bytes_max=FORM_BYTES_MAX))
            to = fields["to"] if _OURS.fullmatch(fields.get("to", "")) else PATH
            token = fields.get("token", "").strip()
            cookie = await anyio.to_thread.run_sync(self._opened, request, token, limiter=self._limiter)
        except Denied as error:
            return _page(asking(to=to, why=error.message), status_of(error))
        except GatewayError as error:
            return _page(refusing(status_of(error), error.message, error.hint), status_of(error))
        response = _led(to)
        response.set_cookie(COOKIE, cookie, max_age=int(VISIT_S), path=PATH, httponly=True, samesite="strict")
        return response

    def _opened(self, request: Request, token: str) -> str:
        """Return the cookie of a visit of whoever holds the token, if it may read."""
        key = key_of(self._control.registry, f"Bearer {token}")
        principal = Principal(key.name, key.scopes)
        seen_as(request, principal)
        principal.require(Scope.READ)
        return self._visits.open(key)

    async def _leave(self, _: Request) -> Response:
        response = _led(PATH)
        response.delete_cookie(COOKIE, path=PATH, httponly=True, samesite="strict")
        return response


def _address(request: Request) -> str:
    """Return the page's own address, spelt as its links are."""
    name = request.path_params.get("route")
    return PATH if name is None else route_path(name)


def _fields(body: bytes) -> dict[str, str]:
    try:
        found = parse_qs(body.decode(), max_num_fields=4, strict_parsing=bool(body))
    except ValueError as error:
        raise MalformedRequest("the form cannot be read") from error
    return {name: values[0] for name, values in found.items()}


def _led(to: str) -> Response:
    return Response(status_code=LED_ON, headers={"location": to, "cache-control": "no-store"})


def _page(html: str, status: int = 200) -> Response:
    """Return a page that may use its own style, post its own form, and load nothing."""
    policy = f"default-src 'none'; style-src {style_source()}; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    headers = {
        "content-security-policy": policy,
        "cache-control": "no-store",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "x-frame-options": "DENY",
    }
    return Response(html.encode("utf-8", "replace"), status, headers, "text/html; charset=utf-8")
