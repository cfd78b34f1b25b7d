"""Which gateway a command talks to, and what its failures become.

An address is taken from the option, else the environment, else the data directory (where a running gateway writes it), else the
default; the token from the option, the environment or `admin.token` in the data directory. It opens no connection by itself.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Concatenate, Final, NoReturn, ParamSpec

import typer

from gateway.core.access import ADMIN_KEY_NAME

if TYPE_CHECKING:
    from gateway.client import AdminClient, PredictionClient

P = ParamSpec("P")
REFUSED, USAGE, NO_REPLY = 1, 2, 3  # exit codes beside 0
DATA_DIR: Final = "headgate-data"
_PANEL: Final = "Connection"


@dataclass(frozen=True, slots=True)
class Connection:
    """What the options said; None where they said nothing."""

    admin_url: str | None = None
    url: str | None = None
    token: str | None = None
    data_dir: Path | None = None

    def over(self, other: Connection) -> Connection:
        """Return these, completed by `other`."""
        mine = {name: value for name in Connection.__slots__ if (value := getattr(self, name)) is not None}
        return replace(other, **mine)


class Gateway:
    """A running gateway, as a command sees it."""

    def __init__(self, connection: Connection) -> None:
        self._given = connection
        self._data_dir = connection.data_dir or Path(os.environ.get("HEADGATE_DATA_DIR", DATA_DIR))

    @property
    def data_dir(self) -> Path:
        """The data directory, which need not be there."""
        return self._data_dir

    def admin(self) -> AdminClient:
        """Return a client of the admin API.

        Raises typer.Exit: there is no token to be found.
        """
        from gateway.client import AdminClient

        token = self._token()
        if token is None:
            fail(f"no token: there is no {self._data_dir / ADMIN_KEY_NAME}", "name the gateway's --data-dir, or give --token")
        return AdminClient(
            self._address(self._given.admin_url, "HEADGATE_ADMIN_URL", "admin_url", "http://127.0.0.1:8081"), token
        )

    def predictions(self) -> PredictionClient:
        """Return a client of the prediction API; without a token where there is none."""
        from gateway.client import PredictionClient

        return PredictionClient(self._address(self._given.url, "HEADGATE_URL", "url", "http://127.0.0.1:8080"), self._token())

    def _token(self) -> str | None:
        if given := self._given.token or os.environ.get("HEADGATE_TOKEN"):
            return given
        path = self._data_dir / ADMIN_KEY_NAME
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            return None
        except OSError as error:
            fail(f"the token cannot be read: {error}", "give --token")

    def _address(self, given: str | None, variable: str, name: str, default: str) -> str:
        if address := given or os.environ.get(variable):
            return address
        try:
            published = json.loads((self._data_dir / "run" / "addresses.json").read_text())
        except (OSError, ValueError):
            return default
        return str(published.get(name, default))


def reaches(command: Callable[Concatenate[Gateway, P], None]) -> Callable[..., None]:
    """Return a command that also takes the connection options and gets the gateway they name as its first argument.

    A refusal is shown on standard error with its hint and becomes exit code 1; no reply becomes 3.
    """

    @functools.wraps(command)
    def reaching(
        context: typer.Context,
        admin_url: str | None,
        url: str | None,
        token: str | None,
        data_dir: Path | None,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        root = context.find_root().obj or Connection()
        gateway = Gateway(Connection(admin_url, url, token, data_dir).over(root))
        with_failures_shown(command, gateway, *args, **kwargs)

    hints = typing.get_type_hints(command, include_extras=True)
    shared = {"admin_url": AdminUrlOption, "url": UrlOption, "token": TokenOption, "data_dir": DataDirOption}
    own = list(inspect.signature(command).parameters.values())[1:]
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[one.name]) for one in own),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
            for name, option in shared.items()
        ),
    ]
    del reaching.__wrapped__  # what Typer shall read is the signature below, not the command's
    reaching.__annotations__ = {one.name: one.annotation for one in parameters}
    vars(reaching)["__signature__"] = inspect.Signature(parameters)
    return reaching


def with_failures_shown(command: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run `command`; show a failure of the gateway, end with its exit code."""
    from gateway.core.errors import GatewayError

    try:
        command(*args, **kwargs)
    except GatewayError as error:
        fail(error.message, error.hint, code=NO_REPLY if getattr(error, "status", None) == 0 else REFUSED)


def fail(message: str, hint: str | None = None, *, code: int = REFUSED) -> NoReturn:
    """Say on standard error what went wrong and what can be done, and end with `code`."""
    typer.echo(f"headgate: {message}", err=True)
    if hint:
        typer.echo(f"hint: {hint}", err=True)
    raise typer.Exit(code)


AdminUrlOption = Annotated[
    str | None,
    typer.Option(
        "--admin-url",
        metavar="URL",
        rich_help_panel=_PANEL,
        help="The admin API; else HEADGATE_ADMIN_URL, else as the data directory says.",
    ),
]
UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        rich_help_panel=_PANEL,
        help="The prediction API; else HEADGATE_URL, else as the data directory says.",
    ),
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        rich_help_panel=_PANEL,
        help=f"Else HEADGATE_TOKEN, else {ADMIN_KEY_NAME} in the data directory.",
    ),
]
DataDirOption = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        rich_help_panel=_PANEL,
        help=f"The gateway's data directory; else HEADGATE_DATA_DIR, else ./{DATA_DIR}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs instead of a table.")]
RouteArgument = Annotated[str, typer.Argument(help="The route's name.")]
ReasonOption = Annotated[str, typer.Option("--reason", "-m", metavar="TEXT", help="Why; stands in the audit log.")]


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines to copy."""
    return "\n\n".join(["Examples:", *lines])
