"""`models`: list, register, show and retire versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gateway.commands import output
from gateway.commands.session import Gateway, JsonOption, ReasonOption, examples, fail, reaches
from gateway.core.fields import Json

group = typer.Typer(help="Models and their immutable versions.", no_args_is_help=True)
_PICKLES = frozenset({".pkl", ".pickle", ".joblib"})
_VERSION_COLUMNS: dict[str, output.Cell] = {
    "version": lambda version: version.get("version"),
    "champion": lambda version: "champion" if version.get("is_champion") else "",
    "state": lambda version: version.get("state"),
    "runtime": lambda version: version.get("runtime"),
    "digest": lambda version: str(version.get("digest", ""))[:12],
    "reference": lambda version: version.get("has_profile"),
    "µs/row": lambda version: version.get("cost_us_per_row"),
    "registered": lambda version: output.moment(version.get("registered_at_s")),
    "description": lambda version: output.shortened(version.get("description")),
}


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="models")


@group.command("list", epilog=examples("headgate models list", "headgate models list delays --json"))
@reaches
def list_models(
    gateway: Gateway, model: Annotated[str, typer.Argument(help="Only this model's versions.")] = "", as_json: JsonOption = False
) -> None:
    """List models with their champions, or the versions of one model."""
    with gateway.admin() as admin:
        items = list(admin.versions(model) if model else admin.models())
    if as_json:
        return output.show_json(items)
    columns = _VERSION_COLUMNS if model else {"model": lambda m: m.get("name"), "champion": lambda m: m.get("champion")}
    return output.show_table(items, columns, empty="no models yet; register one with `headgate models register`")


@group.command(
    epilog=examples(
        "headgate models register delays delays-1.onnx --task binary --output probability --label no --label yes --positive yes",
        "headgate models register delays delays-2.onnx --version 2013-07 --metadata metadata.json --reference train.parquet",
        "headgate models register delays delays.joblib --task binary --reference train.parquet --convert",
        "headgate models register delays delays-3.onnx --preprocess scaler/1 --task binary --reference train.parquet",
    )
)
@reaches
def register(
    gateway: Gateway,
    model: Annotated[str, typer.Argument(help="The model's name; created with its first version.")],
    artifact: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The ONNX file, or a pickle.")],
    *,
    metadata: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON file of metadata; the options below win over it.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="The training sample (Parquet, CSV, JSON Lines) drift is measured from."),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Its name; 1, 2, 3… by default.")] = None,
    description: Annotated[str | None, typer.Option(help="A sentence for people.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(metavar="NAME[:KIND]", help="A feature, in order; KIND numeric or categorical. Repeat.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="binary, multiclass, regression or other: how ground truth is scored.")] = None,
    answer: Annotated[str | None, typer.Option("--output", help="The output that holds the answer.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="A class, in the output's order. Repeat.")] = None,
    positive: Annotated[str | None, typer.Option(help="The label counted as positive (binary).")] = None,
    threshold: Annotated[float | None, typer.Option(help="Probability from which an answer is positive; 0.5.")] = None,
    loss_max: Annotated[float | None, typer.Option(help="Regression: the error that counts as a loss of 1.")] = None,
    runtime: Annotated[
        str | None, typer.Option(help="onnx or pickled; by the file's suffix (.pkl, .pickle, .joblib are pickles).")
    ] = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="MODEL/VERSION", help="The version whose outputs are this artifact's inputs.")
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="What it may run on, such as cuda; the best first, cpu last to fall back. Repeat.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Pickled: what is called; predict_proba or predict, by the task.")] = None,
    interpreter: Annotated[
        str | None, typer.Option(help="Pickled: the Python of its environment; see pickled.interpreters.")
    ] = None,
    instances: Annotated[str | None, typer.Option(metavar="MIN:MAX", help="Pickled: processes on each worker; 1:2.")] = None,
    convert: Annotated[bool, typer.Option(help="Pickled: register it as ONNX, if that agrees on the reference.")] = False,
    atol: Annotated[float | None, typer.Option(help="How far an answer may differ after --convert; 1e-5.")] = None,
    rtol: Annotated[float | None, typer.Option(help="The same, as a share of the answer; 1e-4.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Upload, validate and register a version.

    It is loaded and tried in a process of its own before anything can serve. The first version of a model becomes its champion.
    """
    described = {} if metadata is None else _metadata(metadata)
    described |= _given(version=version, description=description, columns=_columns(column))
    target = output.mapping(described.get("target")) | _given(
        task=task, output=answer, labels=label, positive=positive, threshold=threshold, loss_max=loss_max
    )
    described |= _given(target=target or None)
    described |= _given(runtime=runtime or _runtime(artifact, described), preprocess=_preprocess(preprocess))
    described |= _given(providers=provider)
    pickled = output.mapping(described.get("pickled")) | _given(method=method, interpreter=interpreter, **_instances(instances))
    described |= _given(pickled=pickled or None, convert=(_given(atol=atol, rtol=rtol) or True) if convert else None)
    with gateway.admin() as admin:
        registered = admin.register(model, artifact, described, reference)
    if as_json:
        return output.show_json(registered)
    typer.echo(f"registered {model} version {registered.get('version')}")
    _tell_of_conversion(registered)
    return _show(registered)


@group.command(epilog=examples("headgate models show delays", "headgate models show delays 2 --json"))
@reaches
def show(
    gateway: Gateway,
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str, typer.Argument(help="One version; else all of the model.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Show a model, or one version: digest, signature, what its answer means, cost."""
    with gateway.admin() as admin:
        if version:
            shown = admin.version(model, version)
            return output.show_json(shown) if as_json else _show(shown)
        shown, versions = admin.model(model), list(admin.versions(model))
    if as_json:
        return output.show_json(shown | {"versions": versions})
    output.show_facts({"model": shown.get("name"), "champion": shown.get("champion")})
    return output.show_table(versions, _VERSION_COLUMNS, empty="no versions")


@group.command(epilog=examples("headgate models retire delays 1 --reason 'replaced by 3'"))
@reaches
def retire(
    gateway: Gateway,
    model: Annotated[str, typer.Argument(help="The model.")],
    version: Annotated[str, typer.Argument(help="The version.")],
    reason: ReasonOption = "",
    as_json: JsonOption = False,
) -> None:
    """Take a version out of use. Refused while a route or the champion needs it; its records stay."""
    with gateway.admin() as admin:
        retired = admin.retire(model, version, reason=reason)
    return output.show_json(retired) if as_json else typer.echo(f"retired {model} version {version}")


def _show(version: Json) -> None:
    signature = output.mapping(version.get("signature"))
    target = output.mapping(version.get("target"))
    profile = version.get("profile")
    output.show_facts(
        {
            "model": version.get("model"),
            "version": version.get("version"),
            "state": version.get("state"),
            "digest": version.get("digest"),
            "size": f"{version.get('size_bytes')} bytes",
            "runtime": f"{version.get('runtime')} {version.get('runtime_version')}",
            "inputs": [_spec(spec) for spec in output.objects(signature.get("inputs"))],
            "outputs": [_spec(spec) for spec in output.objects(signature.get("outputs"))],
            "target": ", ".join(f"{name} {output.shown(value)}" for name, value in target.items() if value not in ("", [])),
            "columns": [str(column.get("name")) for column in output.objects(version.get("columns"))],
            "reference profile": "yes" if profile else "none: register with --reference to have drift measured",
            "cost": f"{output.shown(version.get('cost_us_per_row'))} µs a row",
            "may run on": version.get("providers"),
            **_pickled(version),
            **_members(version),
            "lineage": version.get("lineage"),
            "description": version.get("description"),
            "registered": output.moment(version.get("registered_at_s")),
            "warnings": version.get("warnings"),
            "not warm": version.get("not_warm"),
        }
    )


def _tell_of_conversion(registered: Json) -> None:
    converted = output.mapping(output.mapping(registered.get("lineage")).get("converted_from"))
    if converted:
        before, now = output.shown(converted.get("cost_us_per_row")), output.shown(registered.get("cost_us_per_row"))
        typer.echo(
            f"converted to ONNX: {output.shown(converted.get('speed_up'))} times as fast a row ({before} µs before, {now} now); "
            f"on {converted.get('rows')} rows of the reference answers differ by at most {converted.get('difference_max')}"
        )
    elif family := output.mapping(registered.get("pickled")).get("convertible"):
        typer.echo(f"this {family} model may run faster as ONNX: register it again with --convert and --reference")


def _pickled(version: Json) -> Json:
    pickled = output.mapping(version.get("pickled"))
    if not pickled:
        return {}
    return {
        "called": f"{pickled.get('method')}({'frame' if pickled.get('is_frame') else 'array'})",
        "interpreter": pickled.get("interpreter") or "the gateway's own",
        "processes": f"{pickled.get('instances_min')} to {pickled.get('instances_max')} on each worker",
        "pickle": pickled.get("format"),
        "imports": pickled.get("imports"),
    }


def _members(version: Json) -> Json:
    members = output.objects(version.get("members"))
    if not members:
        return {}
    return {
        "runs in order": [f"{one.get('model')}/{one.get('version')} {one.get('runtime')} {one.get('digest')}" for one in members]
    }


def _preprocess(given: str | None) -> Json | None:
    if given is None:
        return None
    model, _, version = given.partition("/")
    if not (model and version):
        fail(f"--preprocess: expected MODEL/VERSION such as scaler/1, got {given!r}")
    return {"model": model, "version": version}


def _runtime(artifact: Path, described: Json) -> str | None:
    return "pickled" if artifact.suffix in _PICKLES and "runtime" not in described else None


def _instances(given: str | None) -> dict[str, int]:
    if given is None:
        return {}
    least, _, most = given.partition(":")
    if not (least.isdigit() and (most or least).isdigit()):
        fail(f"--instances: expected MIN:MAX such as 1:4, got {given!r}")
    return {"instances_min": int(least), "instances_max": int(most or least)}


def _spec(spec: Json) -> str:
    return f"{spec.get('name')} {spec.get('datatype')}{spec.get('shape')}"


def _metadata(path: Path) -> Json:
    try:
        described = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        fail(f"{path}: {error}")
    if not isinstance(described, dict):
        fail(f"{path}: expected a JSON object")
    return described


def _columns(given: list[str] | None) -> list[Json] | None:
    if not given:
        return None
    parted = [text.rpartition(":") if text.endswith((":numeric", ":categorical")) else (text, "", "numeric") for text in given]
    return [{"name": name, "kind": kind} for name, _, kind in parted]


def _given(**fields: object) -> Json:
    return {name: value for name, value in fields.items() if value is not None and value != []}
