"""Notices to every other service that the library apprise speaks to (the extra `notices`)."""

from __future__ import annotations

from typing import Any, Final

from gateway.core.errors import DeliveryFailed, MalformedRequest
from gateway.core.notices import Message, Severity

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
        self._service: Any = apprise.Apprise()
        if not self._service.add(url):
            raise MalformedRequest(f"{url.partition('://')[0]}: no such kind of channel, or its address is not complete")

    def send(self, message: Message) -> None:
        """Send it; the library says only whether that worked."""
        kind = "success" if message.is_over else _TYPES[message.severity]
        if not self._service.notify(title=message.title, body=message.text, notify_type=kind, body_format="text"):
            raise DeliveryFailed("the service did not take it")
