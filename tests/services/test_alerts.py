"""Every alert fires when it should and resolves afterwards, as Prometheus itself works it out; pages silence what they imply."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from gateway.core.errors import OWN_REFUSALS, LogFailed

pytestmark = pytest.mark.services

GRAFANA = Path(__file__).parents[2] / "grafana"
BAD_MIN = 90  # the trouble lasts from the start until then
FIRING_MIN = 80  # by when every alert fires, the one that waits for an hour among them
END_MIN = 560  # six hours of the longest short window after the trouble, and half an hour that its alert stays
PLACE = 'instance="g", process="w0"'
OF_ROUTE = 'instance="g", process="monitor", route="delays"'


def gauge(bad: float, good: float) -> list[float]:
    """Return a number's values, one a minute, during the trouble and after it."""
    return [bad] * BAD_MIN + [good] * (END_MIN - BAD_MIN)


def counter(bad: float, good: float) -> list[float]:
    """Return a count that grows by so much a minute during the trouble and after it."""
    return [bad * min(minute, BAD_MIN) + good * max(0, minute - BAD_MIN) for minute in range(END_MIN)]


def predictions(outcome: str, bad: float, good: float, route: str = "delays") -> tuple[str, list[float]]:
    """Return the live predictions of one route that ended so."""
    labels = f'instance="g", process="w0", route="{route}", variant="champion", version="1", kind="live", outcome="{outcome}"'
    return f"gateway_predictions_total{{{labels}}}", counter(bad, good)


def refusals(reason: str, bad: float, good: float, route: str = "") -> tuple[str, list[float]]:
    """Return what was refused for one reason."""
    return f'gateway_rejected_requests_total{{{PLACE}, route="{route}", reason="{reason}"}}', counter(bad, good)


@dataclass(frozen=True)
class Case:
    """What an alert is tried with: series with their values, and when it must be over."""

    name: str
    series: tuple[tuple[str, list[float]], ...]
    over_min: int
    firing_min: int = FIRING_MIN
    window: str = ""


def alone(name: str, series: str, values: list[float], over_min: int = BAD_MIN + 25) -> Case:
    """Return a case of one series."""
    return Case(name, ((series, values),), over_min)


FAILING = (predictions("ok", 240, 300), predictions("failed", 60, 0))
OWN, GRAFANAS = "", "grafana"
CASES = (
    Case("RouteBurnsBudget", FAILING, BAD_MIN + 25, window="1h"),
    Case("RouteBurnsBudget", FAILING, BAD_MIN + 50, window="6h"),
    Case("RouteBurnsBudget", FAILING, BAD_MIN + 160, window="1d"),
    Case("RouteBurnsBudget", FAILING, BAD_MIN + 400, window="3d"),
    alone("GatewayDown", 'up{job="headgate", instance="g"}', gauge(0, 1)),
    alone("RegistryDown", f"gateway_registry_up{{{PLACE}}}", gauge(0, 1)),
    Case(
        "MonitorStopped",
        (
            (f"gateway_log_records_total{{{PLACE}}}", counter(60, 60)),
            ('gateway_monitor_records_total{instance="g", process="monitor"}', counter(0, 60)),
        ),
        BAD_MIN + 25,
    ),
    alone("MonitorBehind", f"gateway_monitor_lag_seconds{{{PLACE}}}", gauge(60, 0.5)),
    alone("MonitorUnwell", 'gateway_monitor_trouble{instance="g", process="control", trouble="missed_drill"}', gauge(1, 0)),
    alone("MonitorTurnsFail", f"gateway_monitor_turn_failures_total{{{PLACE}}}", counter(2, 0)),
    alone("LogWritesFail", f"gateway_log_write_failures_total{{{PLACE}}}", counter(1, 0)),
    alone("RecordsLost", f"gateway_unlogged_records_total{{{PLACE}}}", counter(10, 0)),
    alone("AuditBroken", f"gateway_audit_intact{{{PLACE}}}", gauge(0, 1), BAD_MIN + 70),
    alone("WorkerBehind", f'gateway_worker_revisions_behind{{{PLACE}, worker="w1"}}', gauge(1, 0)),
    Case(
        "RolledBackByItself",
        ((f'gateway_route_change_timestamp_seconds{{{OF_ROUTE}, action="rollout.rollback", by="monitor"}}', gauge(60, 60)),),
        60,
        firing_min=5,
    ),
    alone("FeaturesDrift", f"gateway_drift_features_over_bound{{{OF_ROUTE}}}", gauge(2, 0), BAD_MIN + 40),
    alone("RouteCritical", f"gateway_route_health{{{OF_ROUTE}}}", gauge(3, 1)),
    alone("GroundTruthUneven", f"gateway_rollout_truth_log_e{{{OF_ROUTE}}}", gauge(8, 0), BAD_MIN + 40),
    alone(
        "VersionsFailToLoad", f'gateway_load_failures_total{{{PLACE}, model="delays", version="2"}}', counter(1, 0), BAD_MIN + 30
    ),
    alone("AutomationOff", f"gateway_automation_on{{{PLACE}}}", gauge(0, 1)),
    Case(
        "RefusesForLoad",
        (
            refusals("Overloaded", 60, 0, "delays"),
            predictions("ok", 300, 300),
        ),
        BAD_MIN + 25,
    ),
    alone("ArchiveBehind", f"gateway_archive_lag_seconds{{{PLACE}}}", gauge(7200, 0)),
    alone("DiskFills", f"gateway_log_free_bytes{{{PLACE}}}", gauge(0, 1e9)),
    alone("ArchiveShortens", f"gateway_archive_shortened_records_total{{{PLACE}}}", counter(1, 0)),
    alone("NoticesUntold", f'gateway_notices_untold_total{{{PLACE}, severity="critical"}}', counter(1, 0), BAD_MIN + 80),
    alone("NoticesLost", f'gateway_notices_lost_total{{{PLACE}, channel="mail"}}', counter(1, 0), BAD_MIN + 80),
    alone("MetricsOverflow", f"gateway_metrics_overflow_total{{{PLACE}}}", counter(5, 0)),
    alone("UnexpectedErrors", f'gateway_unexpected_errors_total{{{PLACE}, loop="request"}}', counter(1, 0)),
)


def grafanas() -> list[dict[str, object]]:
    """Return Grafana's rules as Prometheus would have them: their condition is that the expression has an answer."""
    groups = yaml.safe_load((GRAFANA / "provisioning" / "alerting" / "headgate.yml").read_text())["groups"]
    return [
        {
            "alert": rule["title"],
            "expr": rule["data"][0]["model"]["expr"],
            "for": rule["for"],
            "keep_firing_for": rule["keepFiringFor"],
            "labels": {**rule["labels"], "told_by": "grafana"},
        }
        for group in groups
        for rule in group["rules"]
    ]


def test_every_alert_has_a_case():
    """No alert goes untried."""
    groups = yaml.safe_load((GRAFANA / "rules" / "headgate.yml").read_text())["groups"]
    written = [
        (rule["alert"], rule["labels"].get("window", "")) for group in groups for rule in group["rules"] if "alert" in rule
    ]

    assert sorted(written) == sorted((case.name, case.window) for case in CASES)


def test_alerts_fire_and_resolve(tmp_path):
    """Each alert fires while its trouble lasts, and is over a while after it; a few failures on a quiet route are none."""
    quiet = Case("RouteBurnsBudget", (predictions("failed", 2, 2),), 0, window="1h")  # all of two a minute fail
    tests = [promtool_case(case, OWN, [(case.firing_min, 1), (case.over_min, 0)]) for case in CASES]
    tests.append(promtool_case(quiet, OWN, [(FIRING_MIN, 0), (END_MIN - 1, 0)]))

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], tests) == ""


def test_version_that_did_not_load_once_is_told(tmp_path):
    """A count that begins with 1 and stays there fires, though it never grows, and is over half an hour later."""
    series = f'gateway_load_failures_total{{{PLACE}, model="delays", version="2"}}'
    asked = promtool_case(Case("VersionsFailToLoad", (), 0), OWN, [(20, 0), (32, 1), (60, 0)])
    asked["input_series"] = [{"series": series, "values": "_x30 1x100"}]

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], [asked]) == ""


def test_critical_notice_that_every_channel_refuses_pages_until_one_takes_it(tmp_path):
    """Channels that all want a notice and are all dead tell nobody; what they take within two minutes is no trouble."""
    series = f'gateway_notices_unheard{{{PLACE}, severity="critical"}}'
    asked = promtool_case(Case("NoticesUntold", (), 0), OWN, [(14, 0), (24, 0), (36, 1), (95, 1), (160, 0)])
    asked["input_series"] = [{"series": series, "values": "0x11 1 0x17 1x10 0x120"}]  # one that was late, and one for ten minutes

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], [asked]) == ""


def test_route_that_refuses_everybody_pages(tmp_path):
    """One of fifty routes whose version is not loaded pages, though it is 2 % of the traffic and it never answered; so does
    each that refuses for another reason of the gateway's own after it answered. No other does, and all is over afterwards.
    """
    others = [predictions("ok", 60, 60, f"route-{number}") for number in range(49)]
    reasons = [kind.__name__ for kind in OWN_REFUSALS if not issubclass(kind, LogFailed)]
    once_answered = [predictions("ok", 0, 60, reason) for reason in reasons]
    tests = []
    for refusing, answering in ((["NotReady"], others), (reasons, once_answered)):
        series = (*(refusals(reason, 60, 0, reason) for reason in refusing), *answering)
        asked = promtool_case(Case("RouteBurnsBudget", series, 0, window="1h"), OWN, [(BAD_MIN + 25, 0)])
        paged = 'alertname="RouteBurnsBudget", alertstate="firing", severity="page", window="1h"'
        told = [{"labels": f'ALERTS{{route="{reason}", {paged}}}', "value": 1} for reason in refusing]
        asked["promql_expr_test"].append({"expr": f"ALERTS{{{paged}}}", "eval_time": "15m", "exp_samples": told})
        tests.append(asked)

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], tests) == ""


def test_refusals_of_callers_faults_and_of_the_load_burn_no_budget(tmp_path):
    """Wrong requests, shed load, and what names no route or a version of its own are none of the failures of a route."""
    reasons = ("SignatureMismatch", "LimitExceeded", "PoolSaturated", "Overloaded", "DeadlineExceeded", "CallerLeft")
    refused = [refusals(reason, 600, 600, "delays") for reason in reasons]
    series = (predictions("ok", 60, 60), *refused, refusals("NotReady", 600, 600), refusals("LoadFailed", 600, 600))
    asked = promtool_case(Case("RouteBurnsBudget", series, 0), OWN, [])
    firing = 'ALERTS{alertname="RouteBurnsBudget"}'
    asked["promql_expr_test"].append({"expr": firing, "eval_time": f"{FIRING_MIN}m", "exp_samples": []})

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], [asked]) == ""


def test_prediction_whose_record_is_not_written_is_one_answer(tmp_path):
    """The log fails after a prediction was counted: where all are refused so, all of the answers failed, and not half of them."""
    ratio = {"labels": 'route:gateway_failed:ratio_rate1h{route="delays"}', "value": 1}
    tests = []
    for reason in (kind.__name__ for kind in OWN_REFUSALS if issubclass(kind, LogFailed)):
        series = (predictions("ok", 60, 60), refusals(reason, 60, 60, "delays"))
        asked = promtool_case(Case("RouteBurnsBudget", series, 0, window="1h"), OWN, [(FIRING_MIN, 1)])
        asked["promql_expr_test"].append(
            {"expr": "route:gateway_failed:ratio_rate1h", "eval_time": "80m", "exp_samples": [ratio]}
        )
        tests.append(asked)

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml")], tests) == ""


def test_alerts_of_grafana_fire_where_prometheus_has_none(tmp_path):
    """Without rules in Prometheus each of Grafana's alerts fires and resolves as its own would, with all troubles at once."""
    write_grafanas(tmp_path)

    assert complaints(tmp_path, ["grafana.yml"], [together(GRAFANAS, is_told=True)]) == ""


def test_alerts_of_grafana_are_silent_beside_prometheus(tmp_path):
    """Where Prometheus evaluates its own rules, each trouble is told once: none of Grafana's alerts fires."""
    write_grafanas(tmp_path)

    assert complaints(tmp_path, [str(GRAFANA / "rules" / "*.yml"), "grafana.yml"], [together(GRAFANAS, is_told=False)]) == ""


def together(told_by: str, *, is_told: bool) -> dict[str, object]:
    """Return all cases as one test."""
    cases = [promtool_case(case, told_by, [(case.firing_min, int(is_told)), (case.over_min, 0)]) for case in CASES]
    series = {one["series"]: one for case in cases for one in case["input_series"]}
    asked = [one for case in cases for one in case["promql_expr_test"]]
    return {"name": "all", "interval": "1m", "input_series": list(series.values()), "promql_expr_test": asked}


def write_grafanas(directory: Path) -> None:
    """Write Grafana's rules where promtool finds them."""
    rules = {"groups": [{"name": "grafana", "rules": grafanas()}]}
    (directory / "grafana.yml").write_text(yaml.safe_dump(rules))


def complaints(directory: Path, files: list[str], tests: list[dict[str, object]]) -> str:
    """Let promtool evaluate the files, Grafana's last, and return the end of what it says of tests that fail; empty for none."""
    order = [group["name"] for group in yaml.safe_load((GRAFANA / "rules" / "headgate.yml").read_text())["groups"]]
    body = {"rule_files": files, "evaluation_interval": "2m", "group_eval_order": [*order, "grafana"], "tests": tests}
    path = directory / "alerts.yml"
    path.write_text(yaml.safe_dump(body))

    done = subprocess.run(["promtool", "test", "rules", str(path)], capture_output=True, text=True, check=False)

    said = (done.stdout + done.stderr)[-4000:]
    return (said or f"promtool ended with {done.returncode}") if done.returncode else ""


def promtool_case(case: Case, told_by: str, counts: Iterable[tuple[int, int]]) -> dict[str, object]:
    """Return promtool's form: how many alerts of that name, told by one or the other, fire at which minutes."""
    name = f"{case.name} {case.window}".strip() if told_by is GRAFANAS else case.name
    firing = f'count(ALERTS{{alertname="{name}", alertstate="firing", window="{case.window}", told_by="{told_by}"}})'
    return {
        "name": f"{case.name} {case.window}".strip(),
        "interval": "1m",
        "input_series": [
            {"series": series, "values": " ".join(f"{value:g}" for value in values)} for series, values in case.series
        ],
        "promql_expr_test": [
            {"expr": firing, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": count}] if count else []}
            for minute, count in counts
        ],
    }


@pytest.mark.parametrize("what", ["config grafana/prometheus.yml", "rules grafana/rules/headgate.yml"])
def test_prometheus_accepts_what_is_shipped(what):
    """`promtool` finds no fault in the configuration and the rules."""
    subprocess.run(["promtool", "check", *what.split()], check=True, capture_output=True, cwd=GRAFANA.parent)


@pytest.fixture
def alertmanager(until, tmp_path):
    """Return a client of a running Alertmanager with the shipped configuration."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["prometheus-alertmanager", f"--config.file={GRAFANA}/alertmanager.yml", f"--storage.path={tmp_path}/alerts"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=", "--log.level=error"]
    process = subprocess.Popen(command)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def is_ready() -> bool:
            try:
                return client.get("/-/ready").status_code == 200
            except httpx.TransportError:
                return False

        until(is_ready, within_s=30)
        yield client
    process.terminate()
    process.wait(30)


def test_pages_silence_what_they_imply(alertmanager, until):
    """A page for a route silences its ticket and no other route's; a gateway that is down silences the rest of its own."""
    raised = [
        {"alertname": "RouteBurnsBudget", "severity": "page", "window": "1h", "route": "delays"},
        {"alertname": "RouteBurnsBudget", "severity": "ticket", "window": "1d", "route": "delays"},
        {"alertname": "RouteBurnsBudget", "severity": "ticket", "window": "3d", "route": "fares"},
        {"alertname": "GatewayDown", "severity": "page", "instance": "g"},
        {"alertname": "WorkerBehind", "severity": "ticket", "instance": "g", "worker": "w0"},
        {"alertname": "MonitorStopped", "severity": "page", "instance": "h"},
        {"alertname": "MonitorBehind", "severity": "page", "instance": "h"},
    ]
    alertmanager.post("/api/v2/alerts", json=[{"labels": labels} for labels in raised]).raise_for_status()

    def silenced() -> list[tuple[str, str]]:
        alerts = alertmanager.get("/api/v2/alerts").json()
        found = [alert["labels"] for alert in alerts if alert["status"]["inhibitedBy"]]
        return sorted((labels["alertname"], labels.get("route", "")) for labels in found)

    expected = [("MonitorBehind", ""), ("RouteBurnsBudget", "delays"), ("WorkerBehind", "")]
    until(lambda: silenced() == expected, within_s=30)
