"""The demonstration's directory."""

from __future__ import annotations

from gateway.demo.run import run_demo


def test_demo_leaves_a_directory_in_use_alone(tmp_path, capsys):
    """Whatever lies in the directory, the demonstration refuses it and changes nothing."""
    (tmp_path / "notes.txt").write_text("mine")
    assert run_demo(tmp_path) == 2
    assert "not empty" in " ".join(capsys.readouterr().out.split())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_demo_says_that_a_file_is_no_directory(tmp_path, capsys):
    """A path that cannot be a directory is a sentence and an exit code."""
    (tmp_path / "file").write_text("mine")
    assert run_demo(tmp_path / "file") == 2
    assert "cannot use its directory" in " ".join(capsys.readouterr().out.split())
