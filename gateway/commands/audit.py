"""`audit`: who changed what and why, and whether the chain still holds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from gateway.commands import output
from gateway.commands.session import REFUSED, Gateway, JsonOption, examples, fail, reaches
from gateway.core.fields import Json

if TYPE_CHECKING:
    from gateway.replay.decisions import Recomputed

_HEAD: Final = re.compile("([0-9]+):([0-9a-f]{8,64})…?")  # what `audit list` shows of an entry, or all of its hash
_MEANINGS: Final = {
    "same": "the same",
    "differs": "differs",
    "gone": "differs; a part of its log is past retention",
    "other code": "decided by another version of the arithmetic",
}
group = typer.Typer(help="Every change, by whom and why, chained by hash.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.add_typer(group, name="audit")


@group.command("list", epilog=examples("headgate audit list", "headgate audit list --limit 100 --json"))
@reaches
def list_entries(
    gateway: Gateway,
    limit: Annotated[int, typer.Option(min=1, max=1_000, help="How many of the newest.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """List the newest changes, the newest first."""
    with gateway.admin() as admin:
        entries = admin.latest_audit(limit)
    if as_json:
        return output.show_json(list(entries))
    columns: dict[str, output.Cell] = {
        "seq": lambda entry: entry.get("seq"),
        "time": lambda entry: output.moment(entry.get("time_s")),
        "principal": lambda entry: entry.get("principal"),
        "action": lambda entry: entry.get("action"),
        "subject": lambda entry: entry.get("subject"),
        "reason": lambda entry: output.shortened(entry.get("reason")),
        "evidence": lambda entry: "yes" if entry.get("evidence") else "",
    }
    return output.show_table(entries, columns, empty="no changes yet")


@group.command(epilog=examples("headgate audit show 41", "headgate audit show 41 --json"))
@reaches
def show(
    gateway: Gateway,
    seq: Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="The entry's number.")],
    as_json: JsonOption = False,
) -> None:
    """Show one change: by whom and why, what stood before and after it, its evidence, its hash."""
    with gateway.admin() as admin:
        entry = admin.audit_entry(seq)
    if entry is None:
        fail(f"there is no audit entry {seq}", "headgate audit list has the newest")
    return output.show_json(entry) if as_json else output.show_facts(entry | {"time_s": output.moment(entry.get("time_s"))})


@group.command(epilog=examples("headgate audit verify", "headgate audit verify --head 41:9f2c… --json"))
@reaches
def verify(
    gateway: Gateway,
    head: Annotated[
        str, typer.Option(metavar="SEQ:HASH", help="An entry noted earlier: it must still be there. Finds a shortened log.")
    ] = "",
    recompute: Annotated[
        bool,
        typer.Option("--recompute", help="Also decide anew, from the log in --data-dir, whatever the gateway decided."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compute every hash anew, here, and say whether the chain holds; exit code 1 if it does not.

    Each change is also noted in the prediction log, so that a log that was shortened or written anew is found.
    """
    from gateway.core.audit import FIRST_HASH, AuditEntry, first_broken

    noted = _HEAD.fullmatch(head)
    if head and noted is None:
        raise typer.BadParameter(f"{head!r} is not SEQ:HASH, of the hash eight digits or more", param_hint="--head")
    known_seq, known_hash = noted.groups() if noted is not None else ("", "")
    last, found, broken = AuditEntry(0, 0.0, "", "", "", "", "", hash=FIRST_HASH), not head, None
    with gateway.admin() as admin:
        for entry in admin.audit():
            broken = first_broken([entry], previous=last.hash, seq=last.seq)
            if broken is not None:
                break
            last = entry
            found = found or (str(entry.seq) == known_seq and entry.hash.startswith(known_hash))
        anchors = output.mapping(admin.verify_audit().get("anchors")) if broken is None else {}
    lost = list(output.objects(anchors.get("lost")))
    holds = broken is None and found and not lost
    shown: Json = {"holds": holds, "entries": last.seq, "head": last.hash, "broken_seq": broken, "anchors": anchors}
    decisions, dropped_s = _recomputed(gateway) if recompute and holds else ([], 0.0)
    if recompute and holds:
        bodies = [one.body() for one in decisions]
        shown |= {"holds": not _unlike(decisions), "decisions": bodies, "dropped_until_s": dropped_s}
    if as_json:
        output.show_json(shown)
        raise typer.Exit(0 if shown["holds"] else REFUSED)
    if broken is not None:
        why = f"entry {broken} does not follow from the one before it: the log was edited, shortened or reordered there"
        fail(why, f"headgate audit show {broken} has what it says now, a back-up what it said")
    if not found:
        fail(f"entry {head} is not there any more: the log was shortened or written anew")
    if lost:
        fail(_lost_said(lost[0]))
    typer.echo(f"{last.seq} entries, each follows from the one before; head {last.seq}:{last.hash}")
    if anchors.get("count"):
        typer.echo(f"the prediction log says the same at {anchors['count']} places since {output.moment(anchors['oldest_s'])}")
    if recompute:
        _show_recomputed(decisions, dropped_s)


def _lost_said(anchor: Json) -> str:
    was = f"the newest entry was {anchor.get('seq')}:{str(anchor.get('hash'))[:12]}…"
    return f"at {output.moment(anchor.get('time_s'))} {was}, which is not there any more: the log was shortened or written anew"


def _recomputed(gateway: Gateway) -> tuple[list[Recomputed], float]:
    """Return the gateway's decisions, and up to when records are past retention (0: none is)."""
    from gateway.commands.replay import watched
    from gateway.compose.past import opened_past
    from gateway.replay.decisions import recompute_decisions

    with opened_past(gateway.data_dir) as past, watched("recomputing", {}) as progress:
        return recompute_decisions(past, progress=progress), past.archive.dropped_s()


def _unlike(decisions: Sequence[Recomputed]) -> list[Recomputed]:
    return [one for one in decisions if one.finding.value == "differs"]


def _show_recomputed(decisions: Sequence[Recomputed], dropped_s: float) -> None:
    columns: dict[str, output.Cell] = {
        "seq": lambda one: one.get("seq"),
        "log time": lambda one: output.moment(one.get("log_time_s")),
        "action": lambda one: one.get("action"),
        "subject": lambda one: one.get("subject"),
        "recomputed": lambda one: _MEANINGS[str(one.get("finding"))],
        "recorded, found": lambda one: output.shortened(one.get("differences")),
    }
    output.show_table([one.body() for one in decisions], columns, empty="the gateway has decided nothing by itself")
    if dropped_s:
        typer.echo(f"records up to {output.moment(dropped_s)} are past retention; what rests on them cannot be recomputed")
    if unlike := _unlike(decisions):
        fail(f"{len(unlike)} of {len(decisions)} decisions do not follow from the prediction log")
