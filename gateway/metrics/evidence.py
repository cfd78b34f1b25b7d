"""What the monitor finds: evidence for and against rollouts, drift, and quality against ground truth."""

from __future__ import annotations

from typing import Final

from gateway.metrics.metric import PLACE, Metric, Type

ROLLOUT_LOG_E: Final = Metric(
    "gateway_rollout_log_e", Type.GAUGE, "Highest natural log e-value against the challenger.", ("route", "guardrail")
)
ROLLOUT_BOUND: Final = Metric(
    "gateway_rollout_log_e_bound", Type.GAUGE, "The log e-value from which a rollout is rolled back.", ("route", "guardrail")
)
ROLLOUT_ESTIMATE: Final = Metric(
    "gateway_rollout_estimate_ratio", Type.GAUGE, "Challenger's mean less champion's, of one measure.", ("route", "guardrail")
)
ROLLOUT_LOWER: Final = Metric(
    "gateway_rollout_estimate_lower_ratio",
    Type.GAUGE,
    "Lower end of the interval of that difference, which holds at all times.",
    ("route", "guardrail"),
)
ROLLOUT_UPPER: Final = Metric(
    "gateway_rollout_estimate_upper_ratio", Type.GAUGE, "Upper end of that interval.", ("route", "guardrail")
)
ROLLOUT_MARGIN: Final = Metric(
    "gateway_rollout_margin_ratio",
    Type.GAUGE,
    "How much worse the challenger may be: a guardrail passes once the interval's upper end is below it.",
    ("route", "guardrail"),
)
ROLLOUT_KEYS: Final = Metric(
    "gateway_rollout_keys",
    Type.GAUGE,
    "Assignment keys that the estimate rests on, by variant.",
    ("route", "guardrail", "variant"),
)
ROLLOUT_VERDICT: Final = Metric(
    "gateway_rollout_verdict", Type.GAUGE, "1 for each guardrail's verdict, 0 for the others.", ("route", "guardrail", "verdict")
)
ROLLOUT_ATTRIBUTION: Final = Metric(
    "gateway_rollout_attribution",
    Type.GAUGE,
    "1 for where the last decision on a route's rollout says that a change comes from, 0 for the others.",
    ("route", "attribution"),
)
_SEGMENT: Final = ("route", "guardrail", "segment")  # at most eight of a guardrail, in a column that the plan names
FAIRNESS_MEAN: Final = Metric(
    "gateway_fairness_mean_ratio",
    Type.GAUGE,
    "Mean of what a fairness guardrail measures in one segment, by variant.",
    (*_SEGMENT, "variant"),
)
FAIRNESS_KEYS: Final = Metric(
    "gateway_fairness_keys", Type.GAUGE, "Assignment keys that this mean rests on.", (*_SEGMENT, "variant")
)
FAIRNESS_WIDENING: Final = Metric(
    "gateway_fairness_widening_ratio",
    Type.GAUGE,
    "How much further above the rest a segment lies with the challenger than with the champion.",
    _SEGMENT,
)
FAIRNESS_LOWER: Final = Metric(
    "gateway_fairness_widening_lower_ratio", Type.GAUGE, "Lower end of its interval, which holds at all times.", _SEGMENT
)
FAIRNESS_UPPER: Final = Metric("gateway_fairness_widening_upper_ratio", Type.GAUGE, "Upper end of that interval.", _SEGMENT)
DRIFT_EVIDENCE: Final = Metric(
    "gateway_drift_evidence_ratio",
    Type.GAUGE,
    "Log e-value against being like training over its bound: of the inputs, the answer, errors and losses; an alarm from 1 on.",
    ("route", "part"),
)
DRIFT_PSI_MAX: Final = Metric(
    "gateway_drift_psi_max", Type.GAUGE, "Highest population stability index of a feature or the answer.", ("route",)
)
DRIFT_FEATURES_OVER: Final = Metric(
    "gateway_drift_features_over_bound", Type.GAUGE, "Features, the answer among them, whose index is over its bound.", ("route",)
)
DRIFT_TOP: Final = Metric(
    "gateway_drift_top_psi_ratio",
    Type.GAUGE,
    "Stability index over its bound, of the five features that are furthest over it, or nearest to it.",
    ("route", "feature"),
)
DRIFT_ANSWERS: Final = Metric(
    "gateway_drift_answers_ratio",
    Type.GAUGE,
    "Share of the live version's last answers, by range or category: the nine that were most, and the rest as `other`.",
    ("route", "answer"),
)
DRIFT_APART: Final = Metric(
    "gateway_drift_apart_ratio",
    Type.GAUGE,
    "Highest share of a feature's last values that have no place in training, by why.",
    ("route", "reason"),
)
DRIFT_FROZEN: Final = Metric("gateway_drift_frozen", Type.GAUGE, "Whether a drift incident freezes a rollout.", ("route",))
DRIFT_UNREADABLE: Final = Metric(
    "gateway_drift_unreadable_records_total",
    Type.COUNTER,
    "Records whose inputs do not have the columns of the live version's training sample.",
    ("route",),
)
DRIFT_INCIDENTS: Final = Metric("gateway_drift_incidents_total", Type.COUNTER, "Drift incidents.", ("route",))
QUALITY_LOSS: Final = Metric("gateway_quality_loss_ratio", Type.GAUGE, "Mean loss against ground truth, last hour.", PLACE)
QUALITY_KNOWN: Final = Metric(
    "gateway_quality_known_rows", Type.GAUGE, "Rows with ground truth that the mean loss of the last hour rests on.", PLACE
)
QUALITY_COVERAGE: Final = Metric(
    "gateway_quality_coverage_ratio", Type.GAUGE, "Share of the answered rows whose ground truth is known.", PLACE
)
QUALITY_DELAY: Final = Metric(
    "gateway_quality_delay_seconds",
    Type.GAUGE,
    "Median time from an answer to its ground truth, to a quarter of a decade.",
    PLACE,
)
QUALITY_ESTIMATE: Final = Metric(
    "gateway_quality_estimated_loss_ratio",
    Type.GAUGE,
    "Estimated mean loss of the last hour's answers, before their ground truth; an estimate, no evidence.",
    PLACE,
)
QUALITY_ESTIMATE_BIAS: Final = Metric(
    "gateway_quality_estimate_bias_ratio",
    Type.GAUGE,
    "Estimated loss less what came true, a row, over all answers whose ground truth came.",
    PLACE,
)
QUALITY_CORRECTED: Final = Metric(
    "gateway_quality_corrected_total", Type.COUNTER, "Values of ground truth that a later one contradicted.", PLACE
)
ROLLOUT_TRUTH_LOG_E: Final = Metric(
    "gateway_rollout_truth_log_e",
    Type.GAUGE,
    "Highest natural log e-value against ground truth that comes alike for both variants; from 6.91 its verdicts are void.",
    ("route",),
)
