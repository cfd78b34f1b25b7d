"""Fairness: whether a challenger treats a segment worse than the rest, beyond what the champion does.

It has data while a route's newest rollout has a guardrail that measures fairness, see docs/guardrails.md.
"""

from __future__ import annotations

from typing import Final

from grafana.bounds import GREEN, GREY, RED
from grafana.panels import OF_ROUTE, Board, Kind, Panel, Query, Unbounded

_SEGMENT: Final = "{{route}}: {{segment}}"
_RAIL: Final = "{{route}}: {{guardrail}}"
_OF_FAIRNESS: Final = f"and on (route, guardrail) gateway_fairness_keys{{{OF_ROUTE}}}"
_CHOSEN: Final = f'{OF_ROUTE}, variant=~"$variant"'
_LN_10: Final = "2.302585"


def _by_segment(metric: str) -> str:
    return f"max by (route, guardrail, segment) ({metric}{{{OF_ROUTE}}})"


_PANELS: Final = (
    Panel(
        "By segment and variant",
        "The mean of what the guardrail measures (failures, positives or losses) in each segment, with either variant. Segments "
        "may differ for good reasons; what is judged is whether the challenger widens the difference.",
        "percentunit",
        (
            Query(
                f"max by (route, guardrail, segment, variant) (gateway_fairness_mean_ratio{{{_CHOSEN}}})",
                _SEGMENT + ", {{variant}}",
            ),
        ),
        unbounded=Unbounded.COMPARED,
    ),
    Panel(
        "How much worse than the rest",
        "How much further above the rest a segment lies with the challenger than with the champion, and the interval of it that "
        "holds however often one looks. Zero: the challenger changes as much for the segment as for the rest; "
        "the guardrail passes once all intervals end below its margin.",
        "percentunit",
        (
            Query(_by_segment("gateway_fairness_widening_ratio"), _SEGMENT),
            Query(_by_segment("gateway_fairness_widening_lower_ratio"), _SEGMENT + ", at least"),
            Query(_by_segment("gateway_fairness_widening_upper_ratio"), _SEGMENT + ", at most"),
            Query(
                f"max by (route, guardrail) (gateway_rollout_margin_ratio{{{OF_ROUTE}}} {_OF_FAIRNESS})",
                _RAIL + ", margin",
                is_bound=True,
            ),
        ),
        is_signed=True,
    ),
    Panel(
        "Callers in each segment",
        "Assignment keys that the means rest on. A segment with few of them cannot be judged, and is not.",
        "short",
        (Query(f"max by (route, guardrail, segment, variant) (gateway_fairness_keys{{{_CHOSEN}}})", _SEGMENT + ", {{variant}}"),),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Evidence of unfairness",
        "How strongly a widened difference speaks against the challenger, in powers of ten, and the line from which "
        "it is rolled back.",
        "none",
        (
            Query(f"max by (route, guardrail) (gateway_rollout_log_e{{{OF_ROUTE}}} {_OF_FAIRNESS}) / {_LN_10}", _RAIL),
            Query(
                f"max by (route, guardrail) (gateway_rollout_log_e_bound{{{OF_ROUTE}}} {_OF_FAIRNESS}) / {_LN_10}",
                _RAIL + ", rolled back from here",
                is_bound=True,
            ),
        ),
        width=8,
        is_signed=True,
    ),
    Panel(
        "Verdict",
        "Not known yet is neither good nor bad: there is too little evidence.",
        "none",
        (
            Query(
                f'max by (route, guardrail) (gateway_rollout_verdict{{{OF_ROUTE}, verdict="PASS"}} '
                f'+ ignoring (verdict) 2 * gateway_rollout_verdict{{{OF_ROUTE}, verdict="FAIL"}} {_OF_FAIRNESS})',
                _RAIL,
            ),
        ),
        Kind.STATES,
        width=8,
        meanings=((0, "not known yet", GREY), (1, "passed", GREEN), (2, "failed", RED)),
    ),
)

BOARD: Final = Board("headgate-fairness", "Fairness", "Whether a new version treats a segment worse than the rest.", _PANELS)
