"""What is wrong with the monitor is named, and a monitor that is well has no complaint."""

from __future__ import annotations

import pytest

from gateway.core.troubles import LAG_S, SILENT_S, Trouble, complaints

NOW_S = 1_700_000_000.0
WELL = {"published_at_s": NOW_S - 1.0, "lag_s": 0.5, "drills": {"is_on": True, "has_too_many_alarms": False}}


def picture(routes: dict[str, object] | None = None, **monitor: object) -> dict[str, object]:
    """Return the picture of a monitor that is well but for what is given."""
    return {"monitor": {**WELL, **monitor}, "routes": routes or {}}


def test_monitor_that_is_well_has_no_complaint():
    """Neither a route without drift readings, nor a drill that has not ended, is a trouble."""
    routes = {"a": {"drift": None}, "b": {"drift": {}}}
    drills = {"is_on": True, "drift": {"endings": {}, "last": None}, "harm": {"last": {"ending": "detected", "requests": 90}}}
    assert complaints(picture(routes, drills=drills), now_s=NOW_S) == []


@pytest.mark.parametrize(
    ("shown", "trouble", "said"),
    [
        (None, Trouble.SILENT, "nothing yet"),
        (picture(published_at_s=NOW_S - SILENT_S - 1.0), Trouble.SILENT, f"{SILENT_S + 1:.0f} s"),
        (picture(lag_s=LAG_S + 1.0), Trouble.BEHIND, f"{LAG_S + 1:.0f} s behind"),
        (picture(sampling={"rate": 0.25, "passed_over": 7}), Trouble.SAMPLED, "25.0% of it"),
        (picture(drills={"drift": {"last": {"ending": "missed", "requests": 2_000}}}), Trouble.MISSED_DRILL, "2000 requests"),
        (picture(drills={"has_too_many_alarms": True}), Trouble.FALSE_ALARMS, "A/A"),
    ],
)
def test_trouble_is_named_with_its_number(shown, trouble, said):
    """Each trouble comes alone, in a sentence that says how bad it is."""
    [complaint] = complaints(shown, now_s=NOW_S)
    assert complaint.trouble is trouble
    assert said in complaint.reason
