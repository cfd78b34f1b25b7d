"""How every baseline is run: Uvicorn with uvloop and httptools, one process, no access log, on a free port printed as a line.

Called as `python -m loadtests.servers.<name> MODEL [PORT]`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn


def serve(build: Callable[[Path], Any]) -> None:
    """Serve `build(model)` until the process is terminated."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", int(sys.argv[2]) if len(sys.argv) > 2 else 0))
        listener.listen(2_048)  # before the port is printed, so that no early caller is refused
        print(listener.getsockname()[1], flush=True)
        config = uvicorn.Config(build(Path(sys.argv[1])), loop="uvloop", http="httptools", access_log=False, log_level="warning")
        uvicorn.Server(config).run(sockets=[listener])
