"""What both clients share: one connection pool, one way of failing, and how paths and parameters are written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from gateway.core.errors import GatewayError
from gateway.core.fields import Json

CONNECT_S: Final = 3.0  # a gateway that listens accepts at once
_ANSWER_S: Final = 60.0  # above `control.prepare_timeout_s`, which a route change may wait for
_SHOWN_CHARACTERS_MAX: Final = 200  # of a reply that is not the gateway's, e.g. a proxy's page


class RequestFailed(GatewayError):
    """The gateway refused; `status` is the HTTP status, message and hint are its own."""

    def __init__(self, status: int, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class NotReachable(RequestFailed):
    """No reply came; `status` is 0. Whether the gateway acted is unknown."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            0, f"{url} is not reachable: {reason}", "start it with `headgate serve`, or name it with --admin-url and --url"
        )


class HttpClient:
    """What both clients share: one connection pool, one way of failing."""

    def __init__(self, base_url: str, token: str | None) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={} if token is None else {"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_ANSWER_S, connect=CONNECT_S),
            trust_env=False,  # a proxy of the surroundings is no way to a loopback address
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        with translated(str(self._http.base_url)):
            return checked(self._http.request(method, path, **request))

    def _reply(self, path: str) -> bool:
        with translated(str(self._http.base_url)):
            return self._http.get(path).is_success

    def _json(self, method: str, path: str, **request: Any) -> Json:
        return object_of(self._send(method, path, **request))


@contextlib.contextmanager
def translated(url: str) -> Iterator[None]:
    """Raise `NotReachable` instead of the HTTP library's errors."""
    try:
        yield
    except (httpx.TransportError, httpx.InvalidURL) as error:
        raise NotReachable(url, str(error) or type(error).__name__) from error


def checked(response: httpx.Response) -> httpx.Response:
    """Return a response that is a success, or raise `RequestFailed` with what the gateway says."""
    if response.is_success:
        return response
    response.read()
    try:
        body = object_of(response)
    except RequestFailed:
        body = {}
    message = body.get("error")
    hint = body.get("hint")
    raise RequestFailed(
        response.status_code,
        message if isinstance(message, str) else _shown(response),
        hint if isinstance(hint, str) else None,
    )


def object_of(response: httpx.Response) -> Json:
    """Return a response's JSON object; nothing is an empty one.

    Raises:
        RequestFailed: it is something else.
    """
    if not response.content:
        return {}
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise RequestFailed(response.status_code, _shown(response))
    return body


def _shown(response: httpx.Response) -> str:
    return f"not a reply of the gateway: {response.status_code} {response.text[:_SHOWN_CHARACTERS_MAX]!r}"


def quoted(name: str) -> str:
    """Return a name as one part of a path."""
    return quote(name, safe="")


def given(**params: str) -> dict[str, str]:
    """Return the parameters that say something."""
    return {name: value for name, value in params.items() if value}
