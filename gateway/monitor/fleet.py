"""Learns from the audit log what monitor processes rolled back, for the breaker that they all share.

What this process rolled back itself it knows, unless its checkpoint was left aside; what it decides again, because it died before
it saved, counts from its own place in the log on, as the first time. Asked only before a challenger is to get more callers, which
is rare. Two processes that decide in the same moment may not know of each other; each rollback counts for whatever is raised
afterwards.
"""

from __future__ import annotations

from gateway.core.audit import AuditEntry
from gateway.core.trouble import FLEET_S
from gateway.monitor.act import is_rollback
from gateway.monitor.fold import Fold
from gateway.monitor.views import AUDIT_PAGE, AUDIT_PAGES_MAX
from gateway.ports.stores import RegistryStore

_ROUTE = "route:"


def learn_rollbacks(fold: Fold, registry: RegistryStore, *, before: int = 0) -> None:
    """Take the rollbacks that are young enough to count.

    Args:
        before: The audit entry that older ones are taken of; 0 for all.

    Raises:
        StoreFailed: the registry cannot be read.
    """
    after = before
    for _ in range(AUDIT_PAGES_MAX):
        page = registry.audit(after, AUDIT_PAGE, newest_first=True)
        for entry in page:
            at_s = entry.evidence.get("log_time_s")
            if not isinstance(at_s, int | float):
                continue
            if fold.now_s - at_s >= FLEET_S:
                return
            if is_rollback(entry):
                _take(fold, entry, float(at_s))
        if not page or page[-1].seq == 1:
            return
        after = page[-1].seq


def _take(fold: Fold, entry: AuditEntry, at_s: float) -> None:
    for subject in entry.after:
        name = subject.removeprefix(_ROUTE)
        if name != subject and (name in fold.elsewhere or at_s < fold.now_s):
            fold.fleet.observe(name, at_s)
