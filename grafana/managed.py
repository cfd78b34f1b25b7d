"""The same alerts for Grafana to evaluate: where its Prometheus has none of `rules/`, and only there.

Each is a rule of `rules.py`, with what Prometheus would record written out. It is silent while Prometheus evaluates its own, so
that nobody is told twice. Where these are sent is for Grafana's own notification policy to say.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import alerting, expr

from grafana.rules import EVALUATED, Alert, groups, ratios

FOLDER: Final = "Headgate"  # of the boards, too
SOURCE_UID: Final = "headgate-prometheus"  # of provisioning/datasources
INTERVAL: Final = "1m"  # the longest windows take their time, and no alert waits for less but those that are urgent at any time
MISSED: Final = "5m"  # without the mark of Prometheus' own rules: it may start anew, or read its configuration
SPAN_S: Final = 600  # Grafana wants one; an instant query reads at its end
_ASKED, _HOLDS = "A", "B"  # what Prometheus answers, and whether it answered at all, with whatever number
_OF_SCRAPING: Final = "GatewayDown"  # true as well of a Prometheus that does not answer
_FILE_HAS_NO: Final = ("orgID", "folderUID", "ruleGroup")  # a group of the file says them once


def managed() -> dict[str, object]:
    """Return Grafana's provisioning file."""
    return {
        "apiVersion": 1,
        "groups": [
            {"orgId": 1, "name": name, "folder": FOLDER, "interval": INTERVAL, "rules": [_rule(alert) for alert in alerts]}
            for name, alerts in groups().items()
        ],
    }


def _rule(alert: Alert) -> dict[str, object]:
    title = " ".join((alert.name, *alert.labels.values()))  # titles are unique in a folder
    rule = alerting.Rule(
        uid=re.sub("[^a-z0-9]+", "-", f"headgate {title}".lower()),
        title=title,
        condition=_HOLDS,
        data=[_query(_ASKED, SOURCE_UID, _question(alert)), _query(_HOLDS, "__expr__", _whether())],
        no_data_state="OK",  # as Prometheus: what no series speaks of is no trouble
        exec_err_state="Alerting" if alert.name == _OF_SCRAPING else "OK",  # one alert, not all of them
        for_val=alert.waits,
        labels={"severity": alert.severity, **alert.labels},
        annotations={name: _in_grafana(text) for name, text in alert.annotations().items()},
    )
    written: dict[str, Any] = json.loads(json.dumps(rule, cls=JSONEncoder))
    kept = {name: value for name, value in written.items() if name not in _FILE_HAS_NO}
    return {"uid": rule.uid, "title": rule.title, **kept, "keepFiringFor": alert.stays}


def _query(ref_id: str, source: str, model: object) -> alerting.Query:
    span = alerting.RelativeTimeRange(from_val=SPAN_S, to=0)
    return alerting.Query(datasource_uid=source, model=model, ref_id=ref_id, relative_time_range=span)


def _question(alert: Alert) -> object:
    return prometheus.Dataquery().ref_id(_ASKED).instant().expr(silenced(alert.expression)).build()


def silenced(expression: str) -> str:
    """Return an expression that asks for nothing recorded, and has no answer while Prometheus evaluates the rules itself."""
    for name, recorded in ratios().items():
        expression = re.sub(rf"{name}\b", f"({recorded})", expression)
    return f"({expression}) unless on () last_over_time({EVALUATED}[{MISSED}])"


def _whether() -> object:
    return expr.TypeMath(ref_id=_HOLDS, expression=f"is_number(${_ASKED})")


def _in_grafana(text: str) -> str:
    """Return a template without `$`, which Grafana would take for a variable of its environment."""
    return text.replace("$labels.", ".Labels.").replace("$value", f".Values.{_ASKED}.Value")
