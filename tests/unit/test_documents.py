"""Documents that people write for the command line."""

from __future__ import annotations

import pytest
import typer

from gateway.commands.documents import BYTES_MAX, read_document, read_plan
from gateway.core.errors import MalformedRequest
from gateway.core.plans import Plan, Step, plan_from_body


def test_document_is_yaml_or_json(tmp_path):
    """Both say the same; an empty one says nothing."""
    path = tmp_path / "plan.yaml"
    for text in ("steps: [100, 200]  # out of 10000\nbake_s: 60\n", '{"steps": [100, 200], "bake_s": 60}'):
        path.write_text(text)
        assert read_document(path) == {"steps": [100, 200], "bake_s": 60}
    path.write_text("# nothing\n")
    assert read_document(path) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nb: *x\n", "line 2: an alias"),
        ("[" * 30 + "]" * 30, "nested"),
        ("[" * 5_000, "nested"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 2026-01-01\n", "date"),
        ("a: .nan\n", "not JSON compliant"),
        ("steps: [100]\nsteps: [200]\n", "'steps' stands twice"),
        ("a: {b: [{c: 1, c: 2}]}\n", "'c' stands twice"),
        ("? [a, b]\n: 1\n", "unhashable"),
        ("{1: [}", "expected"),
        ("a: 1\n" * BYTES_MAX, "bytes"),
        ("\x00", "unacceptable character"),
    ],
)
def test_document_that_is_more_than_data_is_refused(tmp_path, text, said):
    """Aliases, depth, size, code and what JSON does not have end in one line that names the file."""
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(MalformedRequest) as caught:
        read_document(path)
    assert "plan.yaml" in str(caught.value)
    assert said in str(caught.value)


def test_numbers_are_those_of_json(tmp_path):
    """No number has base eight, sixty or a hidden meaning: what a person reads is what counts."""
    path = tmp_path / "plan.yaml"
    path.write_text("a: [0500, 1e1, 12, -3, +4, .5, 1.5e-3]\nb: 1:30\nc: 1_000\nd: 0x10\n")
    assert read_document(path) == {"a": [500, 10.0, 12, -3, 4, 0.5, 0.0015], "b": "1:30", "c": "1_000", "d": "0x10"}


def test_document_that_is_not_there_is_refused(tmp_path):
    """So is a directory."""
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(MalformedRequest, match=path.name):
            read_document(path)


def test_plan_is_a_document_however_deep(tmp_path):
    """Nested YAML, JSON and nothing at all are plans; what is no plan is wrong usage that names the file."""
    file = tmp_path / "plan.yaml"
    file.write_text("---\nshadow:\n  fraction: 0.5\nsteps:\n- 100\n- weight: 2000  # of 10,000\n  dwell_s: 9\ndwell_s: 60\n")
    assert plan_from_body(read_plan(file)).steps == (Step(100, 60.0), Step(2_000, 9.0))
    assert plan_from_body(read_plan(file)).shadow.fraction == 0.5
    file.write_text('{"samples_min": 7}')
    assert plan_from_body(read_plan(file)) == Plan(steps=(Step(1_000, samples_min=7), Step(5_000, samples_min=7)))
    file.write_text("# the defaults\n")
    assert plan_from_body(read_plan(file)) == Plan()
    for wrong in ("steps: [\n", "step: [1]\n", "[1]", "steps: many\n"):
        file.write_text(wrong)
        with pytest.raises(typer.BadParameter, match=r"plan\.yaml"):
            read_plan(file)
