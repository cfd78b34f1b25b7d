"""Quality: how right the answers were, once their outcome became known."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.bounds import GREY, YELLOW
from grafana.panels import CHOSEN, OF_ROUTE, VERSION, Board, Panel, Query, Unbounded, number, rate

_PLACE: Final = "route, variant, version"
_NAME: Final = "{{route}} " + VERSION

_LOSS: Final = f"gateway_quality_loss_ratio{{{CHOSEN}}}"
_OF_ROUTE_LOSS: Final = f"gateway_quality_loss_ratio{{{OF_ROUTE}}}"
_PANELS: Final = (
    Panel(
        "Loss against ground truth",
        "Mean loss of each version over the last hour, where the outcome became known; for a yes or no it is the share of wrong "
        "answers. Estimated is what the answers themselves promise before their outcome is known; it is no evidence.",
        "percentunit",
        (
            Query(f"max by ({_PLACE}) ({_LOSS})", _NAME),
            Query(f"max by ({_PLACE}) (gateway_quality_estimated_loss_ratio{{{CHOSEN}}})", _NAME + ", estimated"),
        ),
        unbounded=Unbounded.COMPARED,
    ),
    Panel(
        "Loss beyond the best version's",
        "How much more each version loses than the best one on its route, by ground truth of the last hour. From the line on a "
        "route's health is a warning, once enough outcomes are known.",
        "percentunit",
        (Query(f"max by ({_PLACE}) ({_LOSS}) - on (route) group_left () min by (route) ({_OF_ROUTE_LOSS})", _NAME),),
        levels=bounds.LOSS_BEHIND,
    ),
    Panel(
        "Outcomes that became known",
        "The share of the answered rows whose ground truth has arrived. Versions are compared fairly only while it is alike for "
        "both.",
        "percentunit",
        (Query(f"max by ({_PLACE}) (gateway_quality_coverage_ratio{{{CHOSEN}}})", _NAME),),
        width=8,
        unbounded=Unbounded.COMPARED,
    ),
    Panel(
        "Rows that the loss rests on",
        "Rows with ground truth of the last hour. A loss of a few dozen rows moves by chance alone, and is not judged.",
        "short",
        (Query(f"max by ({_PLACE}) (gateway_quality_known_rows{{{CHOSEN}}})", _NAME),),
        width=8,
        levels=bounds.KNOWN,
        below=GREY,
    ),
    Panel(
        "How far the estimates were off",
        "The estimated loss less the one that came true, a row, over all answers whose outcome became known. Far from zero, the "
        "answers promise more or less than they keep, and the estimate above says little.",
        "percentunit",
        (Query(f"max by ({_PLACE}) (gateway_quality_estimate_bias_ratio{{{CHOSEN}}})", _NAME),),
        width=8,
        unbounded=Unbounded.COMPARED,
        is_signed=True,
    ),
    Panel(
        "How late outcomes come",
        "The median time from an answer to its ground truth, by version, to a quarter of a decade.",
        "s",
        (Query(f"max by ({_PLACE}) (gateway_quality_delay_seconds{{{CHOSEN}}})", _NAME),),
        width=8,
        unbounded=Unbounded.COMPARED,
    ),
    Panel(
        "Whether outcomes come alike for both versions",
        "How strongly the arrivals of ground truth differ between champion and challenger, in powers of ten. From the line on, "
        "verdicts on the loss are void: a version that slows its ground truth looks good.",
        "none",
        (Query(f"max by (route) (gateway_rollout_truth_log_e{{{OF_ROUTE}}}) / 2.302585", "{{route}}"),),
        width=8,
        levels=bounds.TRUTH,
        is_signed=True,
    ),
    Panel(
        "Outcomes corrected",
        "Values of ground truth that a later one contradicted, since the gateway's numbers began.",
        "short",
        (Query(f"sum by ({_PLACE}) (gateway_quality_corrected_total{{{CHOSEN}}})", _NAME),),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Outcomes posted a second",
        "Records of ground truth that the gateway accepted.",
        "wps",
        (Query(rate("gateway_ground_truth_records_total"), "accepted"),),
        width=8,
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Outcomes that count for nothing",
        "Accepted, but their prediction is unknown or known in full already, has no such row, or the value is not comparable.",
        "wps",
        (Query(rate("gateway_ground_truth_uncounted_total", by="reason"), "{{reason}}"),),
        width=8,
        levels=((bounds.FLOWS, YELLOW),),
    ),
    Panel(
        "Rows that wait for their outcome",
        "Answers that the monitor keeps in mind until their ground truth comes. At the second line, the default of "
        "monitor.truth_wait_max, the oldest are given up.",
        "short",
        (Query("max(gateway_ground_truth_waiting_rows)", "waiting"),),
        width=8,
        levels=bounds.WAITING,
    ),
    number(
        "Given up in the last hour",
        "Predictions whose outcome is not waited for any more, because others needed the room. Their outcomes count for nothing.",
        "short",
        "sum(increase(gateway_ground_truth_dropped_predictions_total[1h]))",
        levels=bounds.SELDOM,
    ),
    number(
        "Posted in the last hour",
        "Records of ground truth accepted.",
        "short",
        "sum(increase(gateway_ground_truth_records_total[1h]))",
        unbounded=Unbounded.AMOUNT,
    ),
)

BOARD: Final = Board("headgate-quality", "Quality", "How right the answers were, once their outcome became known.", _PANELS)
