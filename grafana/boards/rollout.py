"""A rollout: how far it is, what the evidence says, and why it goes on, waits or went back."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.boards.answers import answered, failed_share
from grafana.bounds import BLUE, GREEN, GREY, RED, YELLOW
from grafana.panels import CHOSEN, OF_ROUTE, VERSION, Board, Kind, Panel, Query, Unbounded

_LN_10: Final = "2.302585"
_RAIL: Final = "{{route}}: {{guardrail}}"
_STATES: Final = (
    ("SHADOW", 1, "the challenger sees copies", GREY),
    ("CANARY", 2, "both answer", BLUE),
    ("BAKING", 3, "the last step goes on", BLUE),
    ("AWAITING_APPROVAL", 4, "waits for a person", YELLOW),
    ("HELD", 5, "held", YELLOW),
    ("LIVE", 6, "promoted", GREEN),
    ("ROLLED_BACK", 7, "rolled back", GREY),
    ("QUARANTINED", 8, "rolled back by itself, in quarantine", RED),
)
_VERDICTS: Final = (("INCONCLUSIVE", 1, "not known yet", GREY), ("PASS", 2, "passed", GREEN), ("FAIL", 3, "failed", RED))
_ATTRIBUTIONS: Final = (
    ("NONE", 1, "nothing moved", GREEN),
    ("VERSION", 2, "the version", RED),
    ("WORLD", 3, "the world: both versions alike", YELLOW),
    ("DATA", 4, "the data: missing, unseen or out of range", YELLOW),
    ("ASSIGNMENT", 5, "the split is not as planned", YELLOW),
)
_Named = tuple[tuple[str, int, str, str], ...]


def _numbered(metric: str, label: str, by: str, named: _Named) -> str:
    """Return one series whose value is the number of the member that is 1."""
    terms = (f'sum by ({by}) ({metric}{{{OF_ROUTE}, {label}="{name}"}} == 1) * {value}' for name, value, _, _ in named)
    return " or ".join(terms)


def _meanings(named: _Named) -> tuple[tuple[float, str, str], ...]:
    return tuple((float(value), text, colour) for _, value, text, colour in named)


_PANELS: Final = (
    Panel(
        "Where the newest rollout stands",
        "The steps of each route's newest rollout over time. The marks on all panels are changes of the route, with the number "
        "of their audit entry.",
        "none",
        (Query(_numbered("gateway_rollout_state", "state", "route", _STATES), "{{route}}"),),
        Kind.STATES,
        width=24,
        height=5,
        meanings=_meanings(_STATES),
    ),
    Panel(
        "Planned split",
        "The share of assignment keys that each variant owns.",
        "percentunit",
        (Query(f"max by (route, variant, version) (gateway_route_weight_ratio{{{CHOSEN}}})", "{{route}} " + VERSION),),
        is_stacked=True,
        unbounded=Unbounded.PARTS,
    ),
    Panel(
        "Actual split",
        "The share of answers that each version gave. It follows the planned split unless some keys call more often than others.",
        "percentunit",
        (
            Query(
                f"{answered(CHOSEN, 'route, variant, version')} / on (route) group_left () ({answered(OF_ROUTE, 'route')} > 0)",
                "{{route}} " + VERSION,
            ),
        ),
        is_stacked=True,
        unbounded=Unbounded.PARTS,
    ),
    Panel(
        "Evidence against the challenger",
        "How strongly each guardrail speaks against the challenger, in powers of ten, and the line from which the rollout is "
        "rolled back. A sound version reaches its line with a probability below the rollout's alpha, however often one looks.",
        "none",
        (
            Query(f"max by (route, guardrail) (gateway_rollout_log_e{{{OF_ROUTE}}}) / {_LN_10}", _RAIL),
            Query(
                f"max by (route, guardrail) (gateway_rollout_log_e_bound{{{OF_ROUTE}}}) / {_LN_10}",
                _RAIL + ", rolled back from here",
                is_bound=True,
            ),
        ),
        is_signed=True,
    ),
    Panel(
        "How much worse the challenger is",
        "The challenger's mean less the champion's, with the interval that holds however often one looks. A guardrail passes "
        "once the interval's upper end is under its margin. In the guardrail's own unit; of shares, 0.05 is five in a hundred.",
        "none",
        (
            Query(f"max by (route, guardrail) (gateway_rollout_estimate_ratio{{{OF_ROUTE}}})", _RAIL),
            Query(f"max by (route, guardrail) (gateway_rollout_estimate_lower_ratio{{{OF_ROUTE}}})", _RAIL + ", at least"),
            Query(f"max by (route, guardrail) (gateway_rollout_estimate_upper_ratio{{{OF_ROUTE}}})", _RAIL + ", at most"),
            Query(f"max by (route, guardrail) (gateway_rollout_margin_ratio{{{OF_ROUTE}}})", _RAIL + ", margin", is_bound=True),
        ),
        is_signed=True,
    ),
    Panel(
        "Verdict on each guardrail",
        "Not known yet is neither good nor bad: there is too little evidence.",
        "none",
        (Query(_numbered("gateway_rollout_verdict", "verdict", "route, guardrail", _VERDICTS), _RAIL),),
        Kind.STATES,
        height=6,
        meanings=_meanings(_VERDICTS),
    ),
    Panel(
        "Where a change comes from",
        "What the last decision on the rollout blames. Only a change that comes from the version rolls it back.",
        "none",
        (Query(_numbered("gateway_rollout_attribution", "attribution", "route", _ATTRIBUTIONS), "{{route}}"),),
        Kind.STATES,
        height=6,
        meanings=_meanings(_ATTRIBUTIONS),
    ),
    Panel(
        "Whether rollouts go on by themselves",
        "Nothing is raised by itself for a while after several routes were rolled back within minutes: they share a cause. "
        "Rolling back goes on.",
        "none",
        (Query("max(gateway_increases_suspended)", "all routes"),),
        Kind.STATES,
        width=24,
        height=4,
        meanings=((0, "they do", GREEN), (1, "suspended", YELLOW)),
    ),
    Panel(
        "Callers that the estimate rests on",
        "Assignment keys counted for each variant. A caller counts once, however often it calls.",
        "short",
        (
            Query(
                f'max by (route, guardrail, variant) (gateway_rollout_keys{{{OF_ROUTE}, variant=~"$variant"}})',
                _RAIL + ", {{variant}}",
            ),
        ),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Share that failed, by version",
        "What the evidence on service errors is made of. The first line is the objective.",
        "percentunit",
        (Query(failed_share(CHOSEN, "route, variant, version"), "{{route}} " + VERSION),),
        width=8,
        levels=bounds.FAILED,
    ),
    Panel(
        "Changes that the gateway made by itself",
        "Steps forward and rollbacks, since the gateway's numbers began.",
        "short",
        (Query(f"sum by (route, event) (gateway_monitor_changes_total{{{OF_ROUTE}}})", "{{route}}: {{event}}"),),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
)

_ABOUT: Final = "A new version beside the one in charge: how far, how sure, and why."
BOARD: Final = Board("headgate-rollout", "Rollout", _ABOUT, _PANELS)
