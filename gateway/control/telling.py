"""Who is told of what, and a test of a channel."""

from __future__ import annotations

from gateway.control.calls import Answer, Call, Control
from gateway.core.errors import UnknownSubject
from gateway.core.fields import Json


def show_notices(control: Control, _: Call) -> Answer:
    """Return every channel, what waits for it, and what lasts."""
    empty: Json = {"channels": [], "waiting": [], "open": []}
    return Answer(next((notifier.body() for notifier in control.notifiers), empty))


def test_channel(control: Control, call: Call) -> Answer:
    """Send a test to one channel; 502 with the reason when it is not taken."""
    name = call.path["channel"]
    for notifier in control.notifiers:
        if name in notifier.names:
            error = notifier.test(name)
            return Answer({"channel": name, "is_delivered": not error, "error": error}, 502 if error else 200)
    raise UnknownSubject(f"there is no channel {name!r}", hint="channels are in the file that notices.file names")
