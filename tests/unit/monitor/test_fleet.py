"""What monitors rolled back is learned from the audit log, for the breaker."""

from __future__ import annotations

import pytest

from adapters.detectors.river import AdwinDetector
from gateway.core.policy import Rollback
from gateway.monitor.act import act
from gateway.monitor.fleet import learn_rollbacks
from gateway.monitor.fold import Fold
from gateway.monitor.views import present_view
from loadtests.monitoring import Case, registry_of

ROLLED_BACK_S = 1_000.0


@pytest.mark.parametrize(
    ("now_s", "names"), [(ROLLED_BACK_S, []), (ROLLED_BACK_S + 1.0, ["m0", "m1", "m2"]), (ROLLED_BACK_S + 600.0, [])]
)
def test_monitor_without_its_state_knows_its_own_rollbacks(now_s, names):
    """The breaker opens for them in a monitor that begins anew, but not for what it is about to decide again, nor for long."""
    registry = registry_of(Case("three", has_rollout=True, routes=3))
    for name in ("m0", "m1", "m2"):
        view = present_view(registry, name)
        assert view is not None
        assert view.rollout is not None
        act(registry, Rollback("worse"), view.rollout, view, now_s=ROLLED_BACK_S, cursor={})
    fold = Fold(AdwinDetector, epoch_s=60.0, truth_rows_max=10, false_alarm_events=1e6)
    fold.now_s = now_s

    learn_rollbacks(fold, registry)

    assert fold.fleet.routes(now_s) == names
    assert fold.fleet.is_open(100, now_s) is bool(names)
