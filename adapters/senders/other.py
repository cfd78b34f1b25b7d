"""Notices to every other service that the library apprise speaks to (the extra `notices`).

It reads whatever a service answers to its end, so each message is sent by a process of its own, which has one (see
`adapters/child.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any, Final

from adapters.child import NoAnswer, Why, answer_of
from gateway.core.errors import DeliveryFailed, MalformedRequest
from gateway.core.notices import Message, Severity

_TIMEOUT_S: Final = 28.0  # of one message and the start of its process, which takes a second or two: within the port's 30 s
_TAKEN: Final = b"taken\n"
_ANSWER_BYTES_MAX: Final = 100
_ADDRESS_SPACE_BYTES: Final = 2**30  # of the process; the library takes a third
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PASSED: Final = {"home", "ssl_cert_file", "ssl_cert_dir", "requests_ca_bundle"}  # beside all that end in `_proxy`
_TYPES: Final = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}


class Other:
    """One service by its URL, as apprise writes it."""

    def __init__(self, url: str) -> None:
        """Take the URL.

        Raises:
            MalformedRequest: the extra is not installed, or apprise knows no such service.
        """
        try:
            import apprise
        except ImportError:
            hint = "pip install 'headgate[notices]'"
            raise MalformedRequest("this kind of channel needs the extra `notices`", hint=hint) from None
        if not apprise.Apprise().add(url):
            raise MalformedRequest(f"{url.partition('://')[0]}: no such kind of channel, or its address is not complete")
        self._url = url

    def send(self, message: Message) -> None:
        """Send it; the library says only whether that worked."""
        kind = "success" if message.is_over else _TYPES[message.severity]
        order = json.dumps({"url": self._url, "title": message.title, "body": message.text, "notify_type": kind}).encode()
        try:
            answer = answer_of(
                __name__, order, timeout_s=_TIMEOUT_S, bytes_max=_ANSWER_BYTES_MAX, environment=_environment_passed()
            )
        except NoAnswer as error:
            if error.why is Why.LATE:
                raise DeliveryFailed(f"the service did not answer within {_TIMEOUT_S:g} s") from error
            raise DeliveryFailed(f"its process gave no answer: {error.why.value} {error.ending}".strip()) from error
        if answer != _TAKEN:
            raise DeliveryFailed("the service did not take it")


def _environment_passed() -> dict[str, str]:
    """Return what the library needs to reach a service from here: proxies, certificates, and where a plug-in keeps its own."""
    return {name: value for name, value in os.environ.items() if name.lower() in _PASSED or name.lower().endswith("_proxy")}


def main() -> None:
    """Send what standard input says, and say whether it was taken."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    order: dict[str, Any] = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):  # whatever a plug-in prints is no answer
        import apprise

        service = apprise.Apprise()
        service.add(order.pop("url"))
        is_taken = service.notify(**order, body_format="text")
    sys.stdout.buffer.write(_TAKEN if is_taken else b"refused\n")


if __name__ == "__main__":
    main()
