"""The alert rules, and the ratios that they are made of; `managed.py` has them for a Grafana whose Prometheus does not.

The objective is that 999 of 1,000 answers of a route succeed over thirty days. A request that is refused because a version is not
loaded, or storage fails, is an answer that failed; one that is refused for its own faults or for the load is none. What is left
is a budget, and an alert says how fast it is being spent: over a long window, so that a moment does not alarm, and over a short
one, so that the alert ends soon after the trouble does. Google SRE Workbook, chapter 5, table 5-8. What pages needs a person now;
a ticket can wait.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from gateway.core.errors import UNRECORDED_REFUSALS
from grafana.bounds import ARCHIVE_LAG_S, BUSY_SHARE, FAILED_SHARE, LAG_S, RATE_MIN, ROOM_BYTES, TRUTH_LOG_E
from grafana.refused import refused

PAGE, TICKET = "page", "ticket"
EVALUATED: Final = "headgate:rules:evaluated"  # recorded beside the alerts: whoever has it need not evaluate them
_BURNS: Final = (  # long window, short window, times the budget, severity
    ("1h", "5m", 14.4, PAGE),  # 2 % of the month's budget in an hour
    ("6h", "30m", 6.0, PAGE),  # 5 % in six hours
    ("1d", "2h", 3.0, TICKET),  # 10 % in a day
    ("3d", "6h", 1.0, TICKET),  # 10 % in three days
)
_UNLOADED: Final = "gateway_load_failures_total"
_LIVE: Final = 'gateway_predictions_total{kind="live"}'
_FAILED: Final = 'gateway_predictions_total{kind="live", outcome!~"ok|abandoned"}'


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert.

    Attributes:
        waits, stays: How long the condition holds before it fires, and how long it goes on firing after the condition ended.
        action: What a person does about it, in a sentence.
    """

    name: str
    expression: str
    severity: str
    summary: str
    action: str
    waits: str = "0s"
    stays: str = "5m"
    labels: dict[str, str] = field(default_factory=dict)

    def annotations(self) -> dict[str, str]:
        """Return what is told with it."""
        return {"summary": self.summary, "description": self.action}


ALERTS: Final = (
    Alert(
        "GatewayDown",
        'up{job="headgate"} == 0',
        PAGE,
        "The gateway's metrics cannot be read",
        "See whether the gateway runs; its journal says why it stopped.",
        waits="1m",
    ),
    Alert(
        "RegistryDown",
        "min by (instance) (gateway_registry_up) == 0",
        PAGE,
        "The registry cannot be read",
        "Serving goes on with the last route table; nothing can be changed or rolled back until registry.db is back.",
        waits="1m",
    ),
    Alert(
        "MonitorStopped",
        "sum by (instance) (rate(gateway_log_records_total[5m])) > 0 "
        "and sum by (instance) (rate(gateway_monitor_records_total[5m])) == 0",
        PAGE,
        "The monitor reads nothing while the log grows",
        "Nothing is rolled back by itself meanwhile. The journal of the process monitor says why.",
        waits="2m",
    ),
    Alert(
        "MonitorBehind",
        f"max by (instance) (gateway_monitor_lag_seconds) > {LAG_S:g}",
        PAGE,
        "The monitor is {{ $value | humanizeDuration }} behind the log",
        "Automatic decisions come that much later. See the board Monitor of the monitor.",
        waits="2m",
    ),
    Alert(
        "MonitorUnwell",
        'max by (instance, trouble) (gateway_monitor_trouble{trouble!="behind"}) == 1',
        TICKET,
        "The monitor is not well: {{ $labels.trouble }}",
        "`headgate monitor show` says what is wrong. Missed drills and false alarms mean that its verdicts cannot be relied on.",
        waits="10m",
    ),
    Alert(
        "MonitorTurnsFail",
        "sum by (instance) (increase(gateway_monitor_turn_failures_total[15m])) > 5",
        TICKET,
        "Turns of the monitor fail",
        "The journal of the process monitor names the port that failed.",
    ),
    Alert(
        "LogWritesFail",
        "sum by (instance, process) (increase(gateway_log_write_failures_total[5m])) > 0",
        PAGE,
        "{{ $labels.process }} cannot write the prediction log",
        "Answers are refused, or lose their records, as log.when_full says. Look at the disk.",
    ),
    Alert(
        "RecordsLost",
        "sum by (instance, process) (increase(gateway_unlogged_records_total[5m])) > 0",
        PAGE,
        "{{ $labels.process }} answers without records",
        "The log takes nothing and log.when_full is continue. These answers cannot be judged or found again.",
    ),
    Alert(
        "AuditBroken",
        "min by (instance) (gateway_audit_intact) == 0",
        PAGE,
        "The audit log's chain does not hold",
        "`headgate audit verify` names the first entry N that does not follow from the one before it, `headgate audit show N` "
        "what it says now; a back-up has it as it was. First copy registry.db: it is the evidence. Then see who could write it. "
        "docs/operations.md says how to go on.",
        stays="1h",
    ),
    Alert(
        "WorkerBehind",
        "max by (instance, worker) (gateway_worker_revisions_behind) > 0",
        TICKET,
        "{{ $labels.worker }} does not answer with the newest route table",
        "GET /health/ready on the admin port says which workers; their journals say what they could not load.",
        waits="5m",
    ),
    Alert(
        "RolledBackByItself",
        'max by (route) (time() - gateway_route_change_timestamp_seconds{by="monitor", action=~".+[.]rollback"} < bool 900) == 1',
        TICKET,
        "The gateway rolled {{ $labels.route }} back",
        "The board Rollout and `headgate audit list` have the evidence. Nothing is broken now.",
        stays="15m",
    ),
    Alert(
        "FeaturesDrift",
        "max by (route) (gateway_drift_features_over_bound) > 0",
        TICKET,
        "{{ $value }} features of {{ $labels.route }} drifted",
        "The board Drift names them. A rollout on the route is frozen; retraining may be due.",
        waits="10m",
        stays="30m",
    ),
    Alert(
        "RouteCritical",
        "max by (route) (gateway_route_health) == 3",
        TICKET,
        "{{ $labels.route }} is critical",
        "GET /api/v1/routes/{{ $labels.route }}/health says which part of it, and on what evidence.",
        waits="5m",
    ),
    Alert(
        "GroundTruthUneven",
        f"max by (route) (gateway_rollout_truth_log_e) > {TRUTH_LOG_E:.2f}",
        TICKET,
        "Ground truth of {{ $labels.route }} does not come alike for both versions",
        "Verdicts on the loss are void. See where outcomes come from, and why one version's are late.",
        waits="5m",
        stays="30m",
    ),
    Alert(
        "VersionsFailToLoad",
        f"sum by (instance, model, version) (increase({_UNLOADED}[15m])) > 0 "
        f"or sum by (instance, model, version) ({_UNLOADED} unless {_UNLOADED} offset 15m) > 0",  # it begins with 1
        TICKET,
        "Version {{ $labels.version }} of {{ $labels.model }} does not load",
        "The workers' journals say why, and it is tried again with the next call. Where a route needs it, the fallback answers, "
        "or callers are refused: `headgate rollback ROUTE --reason …`, or name another version with `headgate routes set`.",
    ),
    Alert(
        "AutomationOff",
        "max by (instance) (gateway_automation_on) == 0",
        TICKET,
        "Automatic changes are off",
        "Nothing rolls back by itself. `headgate automation on --reason …` when the cause is gone.",
        waits="1h",
    ),
    Alert(
        "RefusesForLoad",
        'sum(rate(gateway_rejected_requests_total{reason=~"PoolSaturated|Overloaded|DeadlineExceeded"}[5m])) > '
        f"{BUSY_SHARE} * sum(rate({_LIVE}[5m])) > {RATE_MIN}",
        TICKET,
        "More than one request in twenty is refused because the gateway is busy",
        "Add workers or machines, or lower the load. The board Route shows which queue waits.",
        waits="5m",
        stays="10m",
    ),
    Alert(
        "ArchiveBehind",
        f"max by (instance) (gateway_archive_lag_seconds) > {ARCHIVE_LAG_S:.0f}",
        TICKET,
        "The archive is {{ $value | humanizeDuration }} behind",
        "The log is kept until the archive has it, and fills the disk. The journal of the process archive says why.",
        waits="15m",
    ),
    Alert(
        "DiskFills",
        f"min by (instance) (gateway_log_free_bytes) < {ROOM_BYTES}",
        TICKET,
        "{{ $value | humanize1024 }}B are left on the disk of the gateway's data",
        "The log gives back all that it can, and it is not enough. On a full disk predictions go as log.when_full says.",
        waits="10m",
    ),
    Alert(
        "ArchiveShortens",
        "sum by (instance) (increase(gateway_archive_shortened_records_total[15m])) > 0",
        TICKET,
        "Predictions are archived without their inputs and outputs",
        "Their records are too long for the archive's memory. Raise `archive.memory_bytes` or lower `serving.body_bytes_max`.",
    ),
    Alert(
        "NoticesUntold",
        'sum by (instance) (gateway_notices_unheard{severity="critical"}) > 0 '
        'or sum by (instance) (increase(gateway_notices_untold_total{severity="critical"}[15m])) > 0',
        PAGE,
        "Nobody was told of something critical",
        "Every channel that wants the notice is dead, or none names its route or team. `headgate notices list` shows the "
        "channels, what waits for them and what lasts; the journal of the process control has each notice.",
        waits="2m",  # a channel that failed takes it with a later try
        stays="1h",
    ),
    Alert(
        "NoticesLost",
        "sum by (instance, channel) (increase(gateway_notices_lost_total[15m])) > 0",
        TICKET,
        "Channel {{ $labels.channel }} did not get what it was to be told",
        "Its notices waited for a day, or too many did, and were given up. `headgate notices list` says why it takes none; the "
        "journal of the process control has each.",
        stays="1h",
    ),
    Alert(
        "MetricsOverflow",
        "sum by (instance, process) (increase(gateway_metrics_overflow_total[15m])) > 0",
        TICKET,
        "{{ $labels.process }} has more numbers than room for them",
        "The boards are not whole. Serve fewer routes with one gateway.",
    ),
    Alert(
        "UnexpectedErrors",
        "sum by (instance, process, loop) (increase(gateway_unexpected_errors_total[15m])) > 0",
        TICKET,
        "{{ $labels.process }} met errors it has no name for",
        "Each is in its journal with a traceback. Report it.",
    ),
)


def rules() -> dict[str, object]:
    """Return the rule file."""
    recorded = {**ratios(), EVALUATED: "vector(1)"}
    recording = {"name": "headgate-recorded", "rules": [{"record": name, "expr": asked} for name, asked in recorded.items()]}
    alerting = [{"name": name, "rules": [_rule(alert) for alert in alerts]} for name, alerts in groups().items()]
    return {"groups": [recording, *alerting]}


def groups() -> dict[str, tuple[Alert, ...]]:
    """Return all alerts by the group that they are evaluated in."""
    return {"headgate-budget": tuple(_burns()), "headgate": ALERTS}


def ratios() -> dict[str, str]:
    """Return the expressions that the budget's alerts are made of, by the names under which they are recorded."""
    return dict(ratio for window in _windows() for ratio in _ratios(window))


def _windows() -> tuple[str, ...]:
    return tuple(dict.fromkeys(window for long, short, _, _ in _BURNS for window in (short, long)))


def _ratios(window: str) -> Iterator[tuple[str, str]]:
    answered = f"sum by (route) (rate({_LIVE}[{window}]) or rate({refused(UNRECORDED_REFUSALS)}[{window}]))"
    failed = f"sum by (route) (rate({_FAILED}[{window}]) or rate({refused()}[{window}]))"
    yield f"route:gateway_predictions:rate{window}", answered
    yield f"route:gateway_failed:ratio_rate{window}", f"({failed} or 0 * {answered}) / ({answered} > 0)"


def _burns() -> Iterator[Alert]:
    for long, short, times, severity in _BURNS:
        bound = f"{times} * {FAILED_SHARE}"
        yield Alert(
            "RouteBurnsBudget",
            f"route:gateway_failed:ratio_rate{long} > {bound} and route:gateway_failed:ratio_rate{short} > {bound} "
            f"and route:gateway_predictions:rate{long} > {RATE_MIN}",
            severity,
            f"{{{{ $labels.route }}}} fails {times:g} times faster than its budget allows",
            f"{{{{ $value | humanizePercentage }}}} of its answers failed in the last {long}. See the board Route: what "
            "failed by version, and what it refused and why; the workers' journals say what does not load.",
            stays="10m" if severity == PAGE else "30m",
            labels={"window": long},
        )


def _rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expression,
        **({"for": alert.waits} if alert.waits != "0s" else {}),
        "keep_firing_for": alert.stays,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": alert.annotations(),
    }
