"""`predict`, `predictions` and `ground-truth`: ask, look at what was logged, and say what came true."""

from __future__ import annotations

import contextlib
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, TypeVar, cast

import typer

from gateway.commands import output
from gateway.commands.session import REFUSED, Gateway, JsonOption, examples, fail, reaches
from gateway.core.fields import Json

if TYPE_CHECKING:
    from gateway.client import AdminClient

T = TypeVar("T")
group = typer.Typer(help="The prediction log: every answer, with its inputs.", no_args_is_help=True)
_FOLLOW_S: Final = 1.0  # between two looks of `tail --follow`
_OVERLAP_S: Final = 5.0  # looked at again, since workers' records arrive out of order
_PAGE: Final = 1_000  # the most that one request returns
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_COLUMNS: dict[str, output.Cell] = {
    "time": lambda record: output.moment(record.get("time")),
    "prediction": lambda record: record.get("prediction_id"),
    "kind": lambda record: record.get("kind"),
    "route": lambda record: record.get("route"),
    "variant": lambda record: record.get("variant"),
    "version": lambda record: record.get("version"),
    "outcome": lambda record: record.get("outcome"),
    "µs": lambda record: record.get("latency_us"),
    "answer": lambda record: output.shortened(_tensors(record.get("outputs"))),
    "ground truth": lambda record: output.shortened([truth.get("value") for truth in output.objects(record.get("ground_truth"))]),
}
RouteOption = Annotated[str, typer.Option(help="Only this route's.")]
VersionOption = Annotated[str, typer.Option(help="Only this version's.")]
SinceOption = Annotated[
    str, typer.Option(metavar="TIME", help="From then on: 15m, 2h, 7d ago, an ISO 8601 time, or epoch seconds.")
]
UntilOption = Annotated[str, typer.Option(metavar="TIME", help="Before then; written like --since.")]


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(
        epilog=examples(
            "headgate predict delays '[[0.1, 0.2, 0.3]]' --key N14228",
            "headgate predict delays --file rows.json --json",
            "headgate predict delays --infer --file request.json --version 2",
        )
    )(predict)
    app.add_typer(group, name="predictions")
    app.command(
        "ground-truth",
        epilog=examples(
            "headgate ground-truth 0199f2d8-6f6e-7c1e-b6f6-0f1f2a3b4c5d yes",
            "headgate ground-truth --file truths.jsonl",
        ),
    )(ground_truth)


@reaches
def predict(
    gateway: Gateway,
    route: Annotated[str, typer.Argument(help="A route, or a model without one.")],
    rows: Annotated[str, typer.Argument(help="JSON: a list of rows, each a list of numbers or an object by column.")] = "",
    *,
    file: Annotated[Path | None, typer.Option(allow_dash=True, help="Read them from a file; - for standard input.")] = None,
    key: Annotated[str, typer.Option(help="The assignment key: the same key gets the same variant.")] = "",
    version: Annotated[str, typer.Option(help="Pin a version and bypass the split; needs --infer.")] = "",
    is_protocol: Annotated[bool, typer.Option("--infer", help="The JSON is a request of the Open Inference Protocol.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Predict, and say which variant and version answered."""
    if version and not is_protocol:
        raise typer.BadParameter("rows cannot pin a version; send a protocol request with --infer", param_hint="--version")
    body = _parsed(rows or _content(file), "the rows")
    with gateway.predictions() as client:
        if is_protocol:
            answer = client.infer(route, _expected(body, dict, "an object"), key=key, version=version)
        else:
            answer = client.predict(route, _expected(body, list, "a list of rows"), key=key)
    if as_json:
        facts = {"prediction_id": answer.prediction_id, "variant": answer.variant, "version": answer.version}
        return output.show_json({**facts, **answer.body})
    return output.show_facts(
        {
            "prediction": answer.prediction_id,
            "variant": answer.variant,
            "version": answer.version,
            "answer": answer.body.get("predictions") or _tensors(answer.body.get("outputs")),
        }
    )


@group.command(epilog=examples("headgate predictions tail", "headgate predictions tail --route delays --follow --json"))
@reaches
def tail(
    gateway: Gateway,
    *,
    route: RouteOption = "",
    version: VersionOption = "",
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=_PAGE, help="How many of the newest to begin with.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones until Ctrl-C.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show the newest records, the newest last."""
    with gateway.admin() as admin:
        newest = list(admin.predictions(route=route, version=version, limit=_PAGE if follow else lines))[::-1]
        _show_records(newest[-lines:], as_json=as_json, empty="no predictions yet")
        if follow:
            _follow(admin, newest, lambda new: _show_records(new, as_json=as_json), route=route, version=version)


@group.command(
    epilog=examples(
        "headgate predictions show 0199f2d8-6f6e-7c1e-b6f6-0f1f2a3b4c5d",
        "headgate predictions show 0199f2d8-6f6e-7c1e-b6f6-0f1f2a3b4c5d --recompute",
    )
)
@reaches
def show(
    gateway: Gateway,
    prediction: Annotated[str, typer.Argument(help="Its id.")],
    *,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Run the same artifact on the logged inputs; exit code 1 if any bit differs.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Show one record: what was asked, what answered, what came true; or whether it comes out the same again."""
    with gateway.admin() as admin:
        record = admin.recompute(prediction) if recompute else admin.prediction(prediction)
    if as_json:
        output.show_json(record)
    elif recompute:
        _show_recomputed(record)
    if recompute:
        raise typer.Exit(0 if record.get("is_equal") is True else REFUSED)
    if as_json:
        return None
    facts = {name: value for name, value in record.items() if name not in {"v", "type"}}  # the log's own
    facts |= {"time": output.moment(record.get("time"))} | {side: _tensors(record.get(side)) for side in ("inputs", "outputs")}
    return output.show_facts(facts)


@group.command(
    epilog=examples(
        "headgate predictions query --route delays --version 2 --since 15m",
        "headgate predictions query --since 2013-07-01T00:00:00Z --until 2013-07-02T00:00:00Z --limit 1000 --json",
        "headgate predictions query --sql 'SELECT version, count(*) AS answers FROM predictions GROUP BY version'",
    )
)
@reaches
def query(
    gateway: Gateway,
    *,
    sql: Annotated[str, typer.Option(help="Ask `predictions` and `ground_truth` in DuckDB's SQL instead; - reads it.")] = "",
    archived: Annotated[bool, typer.Option("--archived", help="With --sql: leave out the last minutes.")] = False,
    route: RouteOption = "",
    version: VersionOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most; of records, the newest.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Show matching records of the archive and the log, the newest first; or answer a question in SQL."""
    if sql and any((route, version, since, until)):
        raise typer.BadParameter("say it in the SQL, with WHERE", param_hint="--route, --version, --since, --until")
    if archived and not sql:
        raise typer.BadParameter("it goes with --sql", param_hint="--archived")
    with gateway.admin() as admin:
        if sql:
            text = sys.stdin.read() if sql == "-" else sql
            return _show_answer(admin.ask(text, limit=limit, is_archived_only=archived), as_json=as_json)
        since_s, until_s = span(since, until)
        found = admin.predictions(route=route, version=version, since=since_s, until=until_s, limit=limit)
        return _show_records(found, as_json=as_json, empty="no such predictions")


@group.command(epilog=examples("headgate predictions export july.parquet --route delays --since 30d"))
@reaches
def export(
    gateway: Gateway,
    to: Annotated[Path, typer.Argument(dir_okay=False, help="The Parquet file to write.")],
    *,
    route: RouteOption = "",
    version: VersionOption = "",
    since: SinceOption = "",
    until: UntilOption = "",
    limit: Annotated[int | None, typer.Option(min=1, help="How many of the newest at most; all of them by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write matching records to a Parquet file."""
    if to.exists() and not force:
        fail(f"{to} exists", "choose another name, or give --force")
    from gateway.client import ALL_RECORDS

    since_s, until_s = span(since, until)
    with gateway.admin() as admin:
        size_bytes = admin.export(to, route=route, version=version, since=since_s, until=until_s, limit=limit or ALL_RECORDS)
    typer.echo(f"wrote {to}, {size_bytes} bytes")


@reaches
def ground_truth(
    gateway: Gateway,
    prediction: Annotated[str, typer.Argument(help="The prediction's id.")] = "",
    value: Annotated[str, typer.Argument(help="A label or a number.")] = "",
    *,
    row: Annotated[int, typer.Option(min=0, help="The row of the prediction's request.")] = 0,
    observed_at: Annotated[str, typer.Option(metavar="TIME", help="When the world showed it; now by default.")] = "",
    file: Annotated[
        Path | None,
        typer.Option(allow_dash=True, help="JSON Lines of prediction_id, value, row?, observed_at?; - for standard input."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Post true outcomes. They are what makes versions comparable by how often they are right."""
    if file is not None:
        records = [
            _expected(_parsed(line, str(file)), dict, "an object a line") for line in _content(file).splitlines() if line.strip()
        ]
    elif prediction and value:
        records = [{"prediction_id": prediction, "value": _number_or_text(value), "row": row}]
        if observed_at:
            records[0]["observed_at"] = float(moment(observed_at))
    else:
        raise typer.BadParameter("give a prediction and its value, or --file")
    accepted = 0
    with gateway.predictions() as client:
        for at in range(0, len(records), _PAGE):
            accepted += int(str(client.ground_truth(records[at : at + _PAGE]).get("accepted", 0)))
    return output.show_json({"accepted": accepted}) if as_json else typer.echo(f"accepted {accepted}")


def _show_recomputed(found: Json) -> None:
    output.show_facts({name: value for name, value in found.items() if name not in {"is_equal", "outputs"}})
    for tensor in output.objects(found.get("outputs")):
        apart = f"{tensor.get('unequal')} of {tensor.get('elements')} elements differ"
        largest = tensor.get("largest_difference")
        by = "" if largest is None else f", by {output.shown(largest)} at most"
        typer.echo(f"{tensor.get('name')}: " + (apart + by if tensor.get("unequal") else "the same to the bit"))


def _show_records(records: Iterable[Json], *, as_json: bool, empty: str = "") -> None:
    if as_json:
        output.show_lines(records)
    else:
        output.show_table(records, _COLUMNS, empty=empty)


def _show_answer(answer: Json, *, as_json: bool) -> None:
    names = _distinct([str(column.get("name")) for column in output.objects(answer.get("columns"))])
    rows: list[Json] = [dict(zip(names, row, strict=True)) for row in cast("list[list[object]]", answer.get("rows"))]
    if as_json:
        output.show_lines(rows)
    else:
        output.show_table(rows, {name: itemgetter(name) for name in names}, empty="no rows")
    if answer.get("is_cut"):
        typer.echo("there are more rows: give a larger --limit, or ask for less", err=True)


def _distinct(names: list[str]) -> list[str]:
    """Return names of which none stands twice; SQL lets columns share one."""
    return [name if name not in names[:at] else f"{name}:{at + 1}" for at, name in enumerate(names)]


def _follow(admin: AdminClient, seen: list[Json], show: Callable[[list[Json]], None], *, route: str, version: str) -> None:
    """Show new records as they come, each once, until Ctrl-C; of more than a page a second, the newest page.

    Args:
        seen: The newest page until now, shown or not.
    """
    known = {str(record.get("prediction_id")): _time_s(record) for record in seen}
    try:
        while True:
            since = f"{max(known.values()) - _OVERLAP_S:.3f}" if known else ""
            found = list(admin.predictions(route=route, version=version, since=since, limit=_PAGE))
            new = [record for record in found[::-1] if record.get("prediction_id") not in known]
            known = {str(record.get("prediction_id")): _time_s(record) for record in found} or known
            show(new)
            time.sleep(_FOLLOW_S)
    except KeyboardInterrupt:
        return


def _time_s(record: Json) -> float:
    value = record.get("time")
    return float(value) if isinstance(value, int | float) else 0.0


def span(since: str, until: str) -> tuple[str, str]:
    """Return the ends of a span as `moment` does; an open one is empty."""
    ends = (moment(since), moment(until))
    if all(ends) and float(ends[0]) >= float(ends[1]):
        raise typer.BadParameter("the span ends before it begins", param_hint="--since, --until")
    return ends


def moment(text: str) -> str:
    """Return a time as seconds since the epoch; an empty one stays empty."""
    ago = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)([smhd])", text)
    if ago is not None:
        return f"{time.time() - float(ago[1]) * _UNITS_S[ago[2]]:.3f}"
    try:
        if math.isfinite(float(text or "0")):
            return text
    except ValueError:
        with contextlib.suppress(ValueError):
            written = datetime.fromisoformat(text)
            return f"{(written if written.tzinfo else written.replace(tzinfo=UTC)).timestamp():.3f}"
    raise typer.BadParameter(f"{text!r} is neither 15m, 2h, 7d nor an ISO 8601 time nor epoch seconds")


def _content(file: Path | None) -> str:
    if file is None:
        raise typer.BadParameter("give the JSON, or --file")
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text()
    except OSError as error:
        fail(str(error))


def _parsed(text: str, what: str) -> object:
    try:
        return json.loads(text, parse_float=_finite, parse_constant=_finite)
    except ValueError as error:
        raise typer.BadParameter(f"{what} are not JSON: {error}") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no number in JSON")
    return number


def _expected(body: object, kind: type[T], expected: str) -> T:
    if not isinstance(body, kind):
        raise typer.BadParameter(f"expected {expected}")
    return body


def _number_or_text(text: str) -> str | int | float:
    try:
        number = json.loads(text)
    except ValueError:
        return text
    if isinstance(number, float) and not math.isfinite(number):
        raise typer.BadParameter(f"{text} is neither a label nor a finite number", param_hint="VALUE")
    return number if isinstance(number, int | float) and not isinstance(number, bool) else text


def _tensors(tensors: object) -> list[str]:
    """Return tensors as text; those that JSON cannot hold stand as base64 of their bytes."""
    return [
        f"{tensor.get('name')}{tensor.get('shape')} {json.dumps(tensor.get('data', tensor.get('raw')))}"
        for tensor in output.objects(tensors)
    ]
