"""Notices to every other service that the library apprise speaks to (the extra `notices`).

It reads whatever a service answers to its end, so each message is sent by a process of its own, which has one.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from typing import Any, Final

from gateway.core.errors import DeliveryFailed, MalformedRequest
from gateway.core.notices import Message, Severity

_TIMEOUT_S: Final = 25.0  # of one message, the import of the library included, which takes a second
_START_S: Final = 3.0  # more for its process, whose own bound begins once it runs: together within the port's 30 s
_ADDRESS_SPACE_BYTES: Final = 2**30  # of the process; the library takes a third
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
        order = {"url": self._url, "title": message.title, "body": message.text, "notify_type": kind, "timeout_s": _TIMEOUT_S}
        try:
            ended = subprocess.run(  # noqa: S603  # our own interpreter and module
                [sys.executable, "-m", __name__],
                input=json.dumps(order).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                check=False,
                timeout=_TIMEOUT_S + _START_S,
            )
        except subprocess.TimeoutExpired as error:
            raise DeliveryFailed("its process did not end in time") from error
        except OSError as error:
            raise DeliveryFailed(f"its process did not start: {error}") from error
        if ended.returncode:
            raise DeliveryFailed("the service did not take it" if ended.returncode > 0 else "the service did not answer in time")


def main() -> None:
    """Send what standard input says; end with 0 when it was taken."""
    order: dict[str, Any] = json.load(sys.stdin)
    signal.setitimer(signal.ITIMER_REAL, order.pop("timeout_s"))  # its signal ends the process, whoever still waits for it
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE_BYTES, _ADDRESS_SPACE_BYTES))
    import apprise

    service = apprise.Apprise()
    service.add(order.pop("url"))
    sys.exit(0 if service.notify(**order, body_format="text") else 1)


if __name__ == "__main__":
    main()
