"""`docs/analysts.md`: its answers are those of the recorded run, its questions fit today's archive, and other tools open that."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from adapters.archives.child import answer_to
from gateway.core.records import GroundTruthRecord, Kind
from gateway.core.tensors import Datatype, Tensor
from gateway.demo.flights import FEATURES
from gateway.history import ask
from gateway.ports.archive import QuestionLimits

PAGE = (Path(__file__).parents[3] / "docs/analysts.md").read_text()
RECORDED = Path(__file__).parents[2] / "data" / "demonstration"
QUESTIONS = re.findall(r"^## (\d+\. .*?)\n.*?```sql\n(.*?)```\n\n((?:\|[^\n]*\|\n)+)", PAGE, re.MULTILINE | re.DOTALL)
NAMES = [title for title, _, _ in QUESTIONS]
SCRIPT = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
LIMITS = QuestionLimits(rows_max=1_000, bytes_max=2**24, memory_bytes=2**30, timeout_s=60.0)
FLIGHTS = 240


@pytest.fixture
def replayed(house, prediction):
    """Return a house with a small replay: version 1 with 2 in its shadow, then 2, then 3 beside it, and most outcomes."""
    random = np.random.default_rng(3)

    def flight(number: int, version: str, **changed: object):
        features = random.normal(size=(1, len(FEATURES))).astype(np.float32)
        features[0, 0], features[0, 15] = (90.0 if number % 2 else 5.0), 4.0
        late = np.float32(0.8 if number % 2 and version != "3" else 0.1)
        outputs = (
            Tensor("label", Datatype.INT64, np.array([int(late > 0.5)], np.int64)),
            Tensor("probabilities", Datatype.FP32, np.array([[1 - late, late]], np.float32)),
        )
        return prediction(
            number,
            version=version,
            model="late-arrival",
            route="late-arrival",
            inputs=(Tensor("features", Datatype.FP32, features),),
            outputs=outputs,
            assignment_key=f"{number % 16:016x}",
            **changed,
        )

    for first in range(0, FLIGHTS, FLIGHTS // 3):
        version = str(1 + 3 * first // FLIGHTS)
        numbers = range(first, first + FLIGHTS // 3)
        lives = [flight(number, version, revision=int(version), assigned=f"v{version}") for number in numbers]
        shadows = [flight(1_000 + n, "2", kind=Kind.SHADOW, shadow_of=lives[n - first].prediction_id) for n in numbers if n < 40]
        truths = [
            GroundTruthRecord(live.prediction_id, live.time_s + 60, 0, n % 2, 1.0) for n, live in zip(numbers, lives, strict=True)
        ]
        house.write(*lives, *shadows, *truths[:-5])
        if first < FLIGHTS // 2:
            house.take()
    return house


def test_page_asks_ten_questions():
    """All ten are found, and each shows an answer."""
    assert [title.split(".")[0] for title, _, _ in QUESTIONS] == [str(number) for number in range(1, 11)]


@pytest.mark.parametrize(("title", "sql", "shown"), QUESTIONS, ids=NAMES)
def test_page_shows_the_answer_of_the_recorded_run(title, sql, shown):
    """Every cell of every table is what the recorded run answers to the question above it."""
    files = {side: [str(RECORDED / f"{side}.parquet")] for side in ("predictions", "ground_truth")}
    bounds = {"rows_max": LIMITS.rows_max, "bytes_max": LIMITS.bytes_max, "memory_bytes": LIMITS.memory_bytes}
    answer = answer_to({"sql": sql, **files, **bounds})
    assert "error" not in answer, answer
    rows = [answer["columns"], ["---"] * len(answer["columns"]), *answer["rows"]]
    assert shown == "".join(f"| {' | '.join(map(str, row))} |\n" for row in rows)


@pytest.mark.parametrize(("title", "sql", "shown"), QUESTIONS, ids=NAMES)
def test_page_question_is_answered_by_an_archive_of_today(replayed, title, sql, shown):
    """A small replay answers each question with the very columns that the page shows."""
    found = ask(sql, within=LIMITS, archive=replayed.archive, log=replayed.reader)
    assert shown.startswith(f"| {' | '.join(found.columns)} |\n")
    assert found.rows
    assert all(value is not None for value in found.rows[0])


def test_archive_opens_unchanged_in_duckdb_polars_and_pandas(replayed, monkeypatch, tmp_path):
    """The page's lines count the same predictions of each version with three tools."""
    replayed.take()
    (tmp_path / "headgate-data").symlink_to(replayed.directory)
    monkeypatch.chdir(tmp_path)
    assert SCRIPT is not None
    *before, duck, polars, pandas = SCRIPT[1].strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(before), names)
    counted = [
        dict(eval(duck, names).fetchall()),
        dict(eval(polars, names).iter_rows()),
        eval(pandas, names).to_dict(),
    ]
    assert counted[0] == counted[1] == counted[2] == {"1": 80, "2": 120, "3": 80}
