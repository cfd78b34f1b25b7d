"""The peers' environments: one virtual environment each below a cache directory, with exactly what its file of pins names."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).parent
DEFAULT_CACHE = Path("~/.cache/headgate-peers").expanduser()
INSTALL_S = 1_800.0  # half a gigabyte over a slow line


class NotInstalled(Exception):
    """A peer's environment could not be made; the message is the installer's last line."""


def interpreter(pins: str, *, cache: Path) -> Path:
    """Return the Python of a peer's environment, made now if there is none for these pins.

    Args:
        pins: Name of the file without its suffix, and of the environment.

    Raises:
        NotInstalled: it could not be made.
    """
    wanted = PINS / f"{pins}.txt"
    directory = cache / pins
    python, made_of = directory / "bin" / "python", directory / "made-of"
    digest = hashlib.sha256(wanted.read_bytes()).hexdigest()
    if made_of.is_file() and made_of.read_text() == digest:
        return python
    print(f"installing {pins} into {directory}", file=sys.stderr, flush=True)
    if uv := shutil.which("uv"):
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(directory))
        _run(uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(wanted))
    else:
        _run(sys.executable, "-m", "venv", "--clear", str(directory))
        _run(str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted))
    made_of.write_text(digest)
    return python


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S)
    except subprocess.CalledProcessError as error:
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        raise NotInstalled(lines[-1] if lines else f"{command[0]} ended with {error.returncode}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(str(error)) from error
