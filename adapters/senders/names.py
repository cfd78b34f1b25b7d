"""Looks up where a receiver is, for no longer than its message may take.

The system's resolver cannot be ended from outside, only left behind. So each question is asked by a thread of its own, and
whoever asks the same while it hangs waits for the same answer: there are never more such threads than different questions.
"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import Future
from typing import Any, Final

Addresses = list[tuple[Any, ...]]  # as `socket.getaddrinfo` returns them
_asked: Final[dict[tuple[Any, ...], Future[Addresses]]] = {}
_lock: Final = threading.Lock()  # of `_asked`


def looked_up(*question: Any) -> Future[Addresses]:
    """Return what `socket.getaddrinfo` will say; whoever waits for it brings a deadline. It fails with `OSError` alone."""
    with _lock:
        if question in _asked:
            return _asked[question]
        answer: Future[Addresses] = Future()
        answer.set_running_or_notify_cancel()  # from here on nobody who leaves ends it for the others
        threading.Thread(target=_ask, args=(question, answer), name="lookup", daemon=True).start()
        _asked[question] = answer
        return answer


def _ask(question: tuple[Any, ...], answer: Future[Addresses]) -> None:
    found: Addresses = []
    error: OSError | None = None
    try:
        found = list(socket.getaddrinfo(*question))
    except OSError as unknown:
        error = unknown
    except ValueError as malformed:  # a name that cannot be written as one
        error = OSError(f"{question[0]!r}: {malformed}")
    with _lock:
        del _asked[question]
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(found)
