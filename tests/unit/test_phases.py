"""The clock of a rollout's phase stands still while nothing comes."""

from __future__ import annotations

import json

from gateway.core.phases import SILENCE_S, PhaseClock


def test_phase_begins_with_its_own_first_record():
    """What was answered by the table before is not the phase's, however long the monitor reads of it."""
    clock = PhaseClock(7)
    for now_s in range(100):
        clock.observe(6, float(now_s))
    assert clock.passed_s(1_000.0) == 0.0
    assert "holds no record of this phase" in clock.stalled(1_000.0)
    clock.observe(7, 1_000.0)
    clock.observe(8, 1_010.0)
    assert clock.passed_s(1_015.0) == 15.0
    assert clock.stalled(1_015.0) == ""


def test_gap_counts_for_its_first_minutes():
    """An hour without a record is five minutes of the phase, and the sentence says how long it lasts; restored it goes on."""
    clock = PhaseClock(1)
    clock.observe(1, 0.0)
    clock.observe(1, 10.0)
    assert clock.passed_s(3_610.0) == 10.0 + SILENCE_S
    assert "no record has come for 3600 s" in clock.stalled(3_610.0)
    clock.observe(1, 3_610.0)
    again = PhaseClock.restored(json.loads(json.dumps(clock.state())))
    again.observe(1, 3_620.0)
    assert again.passed_s(3_620.0) == 20.0 + SILENCE_S
