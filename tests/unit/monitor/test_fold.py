"""What one record changes in the fold's tallies."""

from __future__ import annotations

import numpy as np

from adapters.detectors.river import AdwinDetector
from gateway.core.records import Attempt, Kind, Offset, Outcome, PredictionRecord
from gateway.core.routes import Variant
from gateway.core.split import SLOTS
from gateway.core.tensors import Datatype, Tensor
from gateway.monitor.fold import Fold
from gateway.monitor.merge import Merged
from gateway.monitor.views import RouteView
from tests.records import prediction


def _record(number: int, outcome: Outcome) -> PredictionRecord:
    return prediction(
        prediction_id=f"p-{number}",
        time_s=1_000.0 + number,
        attempts=(Attempt("champion", "1", outcome, 2_000),),
        assignment_key=f"k-{number}",
        inputs=(Tensor("x", Datatype.FP32, np.zeros((1, 1), np.float32)),),
        outcome=outcome,
        latency_us=2_000,
    )


def test_abandoned_attempts_are_in_no_window():
    """What a caller gave up says nothing of the version, so its error rate and mean latency are those of the other attempts."""
    fold = Fold(AdwinDetector, epoch_s=60.0, truth_rows_max=10, false_alarm_events=1e6)
    fold.learn(RouteView("delays", "delays", 1, (Variant("champion", "1", SLOTS),)))
    outcomes = [Outcome.OK, Outcome.FAILED, *[Outcome.ABANDONED] * 6]
    for number, outcome in enumerate(outcomes):
        fold.take(Merged(1_000.0 + number, "w0", Offset(number), Offset(number + 1), _record(number, outcome)))

    hour = fold.routes["delays"].tally("champion", "1", Kind.LIVE).hour()

    assert (hour.predictions, hour.faults, hour.error_rate) == (2, 1, 0.5)
    assert hour.latency_us == 4_000
