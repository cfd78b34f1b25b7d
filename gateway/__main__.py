"""The program's entry: a plane's process goes straight to its plane, everything else to the command line."""

from __future__ import annotations

import sys


def main() -> int:
    """Run `headgate ARGUMENTS…` and return the exit code."""
    if sys.argv[1:2] == ["plane"]:  # how the supervisor starts its children; they need no command line
        from gateway.compose.planes import run_plane

        return run_plane(sys.argv[2:])
    from gateway.commands.app import app

    app(prog_name="headgate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
