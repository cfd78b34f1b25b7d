"""`docs/log-format.md` says what the program writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import duckdb
import pytest

from adapters.logs.codec import decode, encode
from gateway.core.record_bodies import ground_truth_body, prediction_body
from gateway.core.records import GroundTruthRecord, Kind, Outcome

PAGE = (Path(__file__).parents[3] / "docs/log-format.md").read_text()


def test_format_page_names_every_field(prediction):
    """Each field of a prediction and of ground truth stands in a table, and each kind and outcome is explained."""
    tables = "\n".join(line for line in PAGE.splitlines() if line.startswith("| `"))
    fields = {*prediction_body(prediction(1)), *ground_truth_body(GroundTruthRecord("p", 1.0, 0, 1, 1.0))}
    assert [name for name in sorted(fields) if f"`{name}`" not in tables] == []
    assert [one.value for one in (*Kind, *Outcome) if f"`{one.value}`" not in tables] == []


def test_format_page_example_is_what_is_written():
    """The example's lines are records, and the program writes them exactly so."""
    shown = re.search(r"```json\n(.*?)```", PAGE, re.DOTALL)
    assert shown is not None
    lines = [line.encode() for line in re.sub(r"\n ", "", shown[1]).splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert json.loads(encode([decode(line)])) == json.loads(line)
        assert encode([decode(line)]).strip() == line


@pytest.mark.parametrize("number", [0, 1])
def test_format_page_queries_run(house, prediction, number):
    """The SQL on the page runs on a real log and a real archive."""
    house.write(prediction(1), prediction(2), GroundTruthRecord(prediction(1).prediction_id, 2e9, 0, 1, 1.0))
    house.take()
    query = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)[number]
    query = query.replace("headgate-data", str(house.directory)).replace("in_features_0", "in_x_0")
    assert len(duckdb.sql(query).fetchall()) == 1
