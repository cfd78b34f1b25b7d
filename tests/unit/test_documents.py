"""Documents that people write for the command line."""

from __future__ import annotations

import pytest

from gateway.commands.documents import BYTES_MAX, read_document
from gateway.core.errors import MalformedRequest


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


def test_document_that_is_not_there_is_refused(tmp_path):
    """So is a directory."""
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(MalformedRequest, match=path.name):
            read_document(path)
