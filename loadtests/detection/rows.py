"""The rows of the table, by number."""

from __future__ import annotations

from loadtests.detection import drift_rows
from loadtests.detection.audited import audit_lines
from loadtests.detection.flapping import flapping_lines
from loadtests.detection.harmful import harmful_lines
from loadtests.detection.lines import Row
from loadtests.detection.real import stream_lines
from loadtests.detection.shares import share_lines
from loadtests.detection.sound import sound_lines
from loadtests.detection.stopped import stopped_lines
from loadtests.detection.world import world_lines

_EVERY = f"an alarm every {drift_rows.DUMMY_EVERY:,} rows, drift or not"
_HALF = f"{_EVERY}: it finds anything after half of that, and is wrong 100 times in 100,000"
ROWS: dict[int, Row] = {
    row.number: row
    for row in (
        Row(
            1,
            "Sound versions rolled back: 6,000 requests over 3.3 h, 10 % and then 50 %, the whole policy",
            "a one-sided z-test at 5 % looked at every 100 requests; an alarm every 100 requests of the challenger",
            sound_lines,
        ),
        Row(
            2,
            "Harm found, in requests of a 10 % challenger; one guardrail alone at α = .01, and the default plan",
            "an alarm every 100 requests of the challenger; the z-test of row 1",
            harmful_lines,
        ),
        Row(3, "A rolled-back version's last answer", "controllers that shift traffic in steps, as documented", stopped_lines),
        Row(
            4,
            "World drift in both variants: 10,000 requests, it begins after half of them",
            "ADWIN at its defaults on the challenger's errors alone, its alarm taken for the version's fault",
            world_lines,
        ),
        Row(5, "False alarms of drift, independent rows, references of 500, 5,000 and 50,000", _EVERY, drift_rows.quiet_lines),
        Row(6, "False alarms of drift, correlated rows", _EVERY, drift_rows.correlated_lines),
        Row(7, "A rise of errors found, in outcomes", _HALF, drift_rows.outcome_lines),
        Row(8, "A shift of one feature found, in rows", _HALF, drift_rows.shift_lines),
        Row(
            9,
            "Drift put into real streams (flights, weather, a shuttle's sensors), in their own order; false alarms in 1,000 rows",
            "an alarm every k rows, the k with the best F1",
            stream_lines,
        ),
        Row(
            10,
            "Sample ratio mismatch, in keys",
            "a fixed test at .001, looked at every 1,000 keys",
            share_lines,
        ),
        Row(11, "False breaches of the stability index", "a bare bound of .1", drift_rows.breach_lines),
        Row(12, "What drift detection costs", "ADWIN alone, one value after the other", drift_rows.cost_lines),
        Row(
            13,
            "Automatic increases of a route's challenger while faults come and go, a new rollout after each that ended",
            "a controller that looks at the last minute's failures alone and steps up or back to nothing",
            flapping_lines,
        ),
        Row(
            14,
            "The audit log against the prediction log",
            "decisions whose evidence was misstated by one key; the chain of hashes without its anchors",
            audit_lines,
        ),
    )
}
