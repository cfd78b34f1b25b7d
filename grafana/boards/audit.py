"""Audit: who changed what, and whether the log of it holds together. From the metrics alone; the entries are in the admin API."""

from __future__ import annotations

from typing import Final

from grafana import bounds
from grafana.bounds import GREEN, RED
from grafana.panels import OF_ROUTE, Board, Kind, Panel, Query, Unbounded, number

_CHANGES: Final = f"gateway_route_change_timestamp_seconds{{{OF_ROUTE}}}"
_OF: Final = "of the last changes of each route: up to 20, and of more than a hundred routes fewer"

_PANELS: Final = (
    number(
        "Entries",
        "Entries of the audit log. Each change is one, by a person or by the gateway.",
        "short",
        "max(gateway_audit_entries_total)",
        unbounded=Unbounded.AMOUNT,
    ),
    number(
        "Chain",
        "Whether each of the newest entries followed from the one before it when the control plane read it. "
        "The whole chain is checked by `headgate audit verify`.",
        "none",
        "min(gateway_audit_intact)",
        meanings=((1, "whole", GREEN), (0, "broken", RED)),
    ),
    number(
        "By people, last day",
        f"Route changes by people in the last 24 hours, {_OF}.",
        "short",
        f'count((time() - {_CHANGES[:-1]}, by="person"}}) < 86400) or vector(0)',
        unbounded=Unbounded.AMOUNT,
    ),
    number(
        "By the gateway, last day",
        f"Route changes that the gateway made by itself in the last 24 hours, {_OF}.",
        "short",
        f'count((time() - {_CHANGES[:-1]}, by="monitor"}}) < 86400) or vector(0)',
        unbounded=Unbounded.AMOUNT,
    ),
    number(
        "Automatic changes",
        "Whether the gateway may change routes by itself. Off stops automatic rollbacks too.",
        "none",
        "min(gateway_automation_on)",
        meanings=((1, "on", GREEN), (0, "off", RED)),
    ),
    number(
        "In quarantine",
        "Versions that the gateway rolled back by itself and that no rollout may use for a while.",
        "short",
        "max(gateway_quarantined_versions)",
        levels=bounds.SELDOM,
    ),
    Panel(
        "When",
        "The newest first; the last changes of each route, up to 20, and of more than a hundred routes fewer. An entry's reason "
        "and evidence: `headgate audit show` with its number.",
        "dateTimeAsIso",
        (Query(f"max by (route, action, by, audit_entry) ({_CHANGES}) * 1000", "{{audit_entry}}"),),
        Kind.TABLE,
        width=24,
        height=12,
        columns=(("audit_entry", "Audit entry"), ("route", "Route"), ("action", "What"), ("by", "By")),
        unbounded=Unbounded.RECORD,
    ),
    Panel(
        "Entries over time",
        "How the audit log grows. A steep step is a script, or somebody in a hurry.",
        "short",
        (Query("max(gateway_audit_entries_total)", "entries"),),
        unbounded=Unbounded.AMOUNT,
    ),
    Panel(
        "Revision of each route",
        "It grows by one with every change of the route.",
        "short",
        (Query(f"max by (route) (gateway_route_revision{{{OF_ROUTE}}})", "{{route}}"),),
        unbounded=Unbounded.AMOUNT,
    ),
)

BOARD: Final = Board("headgate-audit", "Audit", "Who changed what, when, and whether the log of it holds together.", _PANELS)
