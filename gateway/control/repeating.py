"""What the control plane does again and again beside its answers, each in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from gateway.core.errors import PortFault

_journal = logging.getLogger(__name__)


def repeat(turn: Callable[[], None], *, what: str, every_s: float, stop: threading.Event, failed: Callable[[], None]) -> None:
    """Do `turn` at once and then again and again until `stop`; what fails is tried again.

    Args:
        what: Could not be done when it fails, for the journal.
        failed: Counts a failure that the program has no name for.
    """
    while not stop.is_set():
        try:
            turn()
        except PortFault as error:
            _journal.warning(what, extra={"action": "retry", "reason": str(error)})
        except Exception:  # noqa: BLE001 - the queue's drain; counted and journalled
            failed()
            _journal.exception(what, extra={"action": "retry"})
        stop.wait(every_s)
