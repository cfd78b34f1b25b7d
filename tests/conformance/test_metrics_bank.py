"""What every `MetricsBank` and `MetricsSnapshots` promise."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters import memory, metrics_file
from adapters.memory import MemoryMetrics
from adapters.metrics_file import MetricsDirectory, MetricsFile
from gateway.core.errors import StoreFailed
from gateway.ports.metrics import Exemplar, MetricsBank, MetricsSnapshots, Sample

ODD = 'ü \\"\n'  # a label that text formats have to escape
OVERFLOW = Sample("gateway_metrics_overflow_total", (), 0.0)


@dataclass
class Metrics:
    """One backend: how a process opens its bank, and what reads them all."""

    bank: Callable[[str], MetricsBank]
    snapshots: MetricsSnapshots


@pytest.fixture(params=["memory", "file"])
def metrics(request, tmp_path):
    if request.param == "memory":
        banks = MemoryMetrics()
        return Metrics(banks.bank, banks)
    return Metrics(lambda process: MetricsFile(tmp_path / "m" / f"{process}.bin"), MetricsDirectory(tmp_path / "m"))


def test_metrics_of_nobody_are_empty(metrics):
    """Before any process has a bank there is nothing to show."""
    assert metrics.snapshots.latest() == {}


def test_metrics_add_up_and_are_replaced(metrics):
    """A counter adds, a gauge is set, and each process shows its own."""
    bank = metrics.bank("w0")
    bank.cell("a_total", [("route", "delays"), ("variant", ODD)]).add(1.5)
    bank.cell("a_total", [("route", "delays"), ("variant", ODD)]).add(2.0)
    bank.cell("b").set(7.0)
    bank.cell("b").set(-3.25)
    metrics.bank("w1").cell("b").add(1.0)
    assert metrics.snapshots.latest() == {
        "w0": [OVERFLOW, Sample("a_total", (("route", "delays"), ("variant", ODD)), 3.5), Sample("b", (), -3.25)],
        "w1": [OVERFLOW, Sample("b", (), 1.0)],
    }


def test_metrics_that_are_raised_never_fall(metrics):
    """A count that is kept elsewhere and goes on from an older state waits until it is higher again."""
    cell = metrics.bank("monitor").cell("a_total")
    for value, shown in ((5.0, 5.0), (3.0, 5.0), (6.0, 6.0)):
        cell.raise_to(value)
        assert metrics.snapshots.latest()["monitor"][1].value == shown


def test_metrics_that_are_forgotten_make_room(metrics, monkeypatch):
    """What is unwanted is not shown any more and gives back its room; what stays keeps its value and its cells count on."""
    monkeypatch.setattr(memory, "CELLS", 4)
    monkeypatch.setattr(metrics_file, "CELLS", 4)
    bank = metrics.bank("w0")
    old, kept = bank.cell("a", [("version", "1")]), bank.cell("a", [("version", "2")])
    old.add(1.0)
    kept.add(2.0)
    bank.cell("b").set(3.0)
    assert bank.share_taken == 1.0

    bank.forget(lambda sample: dict(sample.labels).get("version") == "1")

    assert bank.share_taken == 0.75
    old.add(100.0)  # by whoever still holds it
    kept.add(10.0)
    bank.cell("c").add(4.0)
    expected = [OVERFLOW, Sample("a", (("version", "2"),), 12.0), Sample("b", (), 3.0), Sample("c", (), 4.0)]
    assert metrics.snapshots.latest() == {"w0": expected}
    assert bank.cell("a", [("version", "2")]) is kept
    assert metrics.bank("w0").cell("b") is not None
    assert metrics.snapshots.latest() == {"w0": expected}


def test_metrics_forget_again_and_again(metrics):
    """However often something is forgotten, a reader never takes one number for another."""
    bank = metrics.bank("w0")
    bank.cell("kept").set(-1.0)
    for turn in range(1, 6):
        bank.cell("a", [("turn", str(turn))]).set(float(turn))
        expected = [OVERFLOW, Sample("kept", (), -1.0), Sample("a", (("turn", str(turn)),), float(turn))]
        assert metrics.snapshots.latest() == {"w0": expected}
        bank.forget(lambda sample: sample.name == "a")


def test_metrics_cell_is_the_same_for_the_same_name_and_labels(metrics):
    """Binding twice gives one cell; another label or another name gives another."""
    bank = metrics.bank("w0")
    first = bank.cell("a", [("x", "1")])
    assert bank.cell("a", (("x", "1"),)) is first
    assert bank.cell("a", [("x", "2")]) is not first
    assert bank.cell("b", [("x", "1")]) is not first


def test_metrics_outlive_their_process(metrics):
    """A successor under the same name counts on where the last one stopped, whatever order it binds in."""
    bank = metrics.bank("w0")
    bank.cell("a").add(1.0)
    bank.cell("b").add(2.0)
    successor = metrics.bank("w0")
    successor.cell("b").add(10.0)
    successor.cell("c").add(100.0)
    successor.cell("a").add(1000.0)
    assert {sample.name: sample.value for sample in metrics.snapshots.latest()["w0"]} == {
        OVERFLOW.name: 0.0,
        "a": 1001.0,
        "b": 12.0,
        "c": 100.0,
    }


def test_metrics_bank_that_is_full_counts_what_it_loses(metrics, monkeypatch):
    """Beyond the last cell every update is counted as lost, known cells go on, and nothing is written elsewhere."""
    monkeypatch.setattr(memory, "CELLS", 4)
    monkeypatch.setattr(metrics_file, "CELLS", 4)
    bank = metrics.bank("w0")
    for name in "abcde":
        bank.cell(name).add(5.0)
    bank.cell("e").set(9.0)
    bank.cell("a").add(1.0)
    assert [(sample.name, sample.value) for sample in metrics.snapshots.latest()["w0"]] == [
        (OVERFLOW.name, 3.0),
        ("a", 6.0),
        ("b", 5.0),
        ("c", 5.0),
    ]


def test_metrics_lose_no_addition_of_two_threads(metrics):
    """Threads that add to one cell at the same time all count."""
    cell = metrics.bank("w0").cell("a")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=lambda: [cell.add(1.0) for _ in range(20_000)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert metrics.snapshots.latest()["w0"][1].value == 80_000.0


def test_metrics_bind_in_many_threads_at_once(metrics):
    """Threads that bind the same names at once share the cells."""
    bank = metrics.bank("w0")
    threads = [threading.Thread(target=lambda: [bank.cell(f"c{at}").add(1.0) for at in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    samples = metrics.snapshots.latest()["w0"][1:]
    assert sorted(sample.name for sample in samples) == sorted(f"c{at}" for at in range(50))
    assert {sample.value for sample in samples} == {4.0}


LABELS = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=30)), max_size=3).map(tuple)
NUMBERS = st.floats(allow_nan=False)


@settings(max_examples=50, deadline=None)
@given(cells=st.dictionaries(st.tuples(st.text(min_size=1, max_size=20), LABELS), NUMBERS, max_size=20))
def test_metrics_file_gives_back_any_names_and_values(cells, tmp_path_factory):
    """Whatever is named and set is read back by others and by a successor."""
    directory = tmp_path_factory.mktemp("m")
    bank = MetricsFile(directory / "w0.bin")
    for (name, labels), value in cells.items():
        bank.cell(name, labels).set(value)
    wanted = {(*key, value) for key, value in cells.items()} | {(OVERFLOW.name, (), 0.0)}
    for _ in range(2):
        found = {(sample.name, sample.labels, sample.value) for sample in MetricsDirectory(directory).latest()["w0"]}
        assert found == wanted
        MetricsFile(directory / "w0.bin")


def test_metrics_file_is_never_read_half_written(tmp_path):
    """A reader beside a process that binds and counts sees whole names, each with a value that it once had."""
    program = f"""
from pathlib import Path
from adapters.metrics_file import MetricsFile
bank = MetricsFile(Path({str(tmp_path / "w0.bin")!r}))
print(flush=True)
at = 0
while True:
    at = at % 19_000 + 1
    bank.cell(f"name_{{at}}", [("label", str(at) * 7)]).set(float(at))
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    directory = MetricsDirectory(tmp_path)
    seen = 0
    while seen < 5_000:
        samples = directory.latest()["w0"][1:]
        assert len(samples) >= seen
        seen = len(samples)
        for at, sample in enumerate(samples, start=1):
            assert (sample.name, sample.labels) == (f"name_{at}", (("label", str(at) * 7),))
            assert sample.value in (0.0, float(at))
    process.send_signal(signal.SIGKILL)
    process.wait()
    samples = MetricsDirectory(tmp_path).latest()["w0"][1:]
    assert len(samples) >= seen
    assert MetricsFile(tmp_path / "w0.bin").cell("name_3", [("label", "3" * 7)])
    assert len(MetricsDirectory(tmp_path).latest()["w0"][1:]) == len(samples)


def test_metrics_file_takes_no_value_over_from_a_name_that_was_lost(tmp_path):
    """A value whose name did not survive never becomes the first value of the next name."""
    bank = MetricsFile(tmp_path / "w0.bin")
    bank.cell("kept").add(1.0)
    bank.cell("lost").add(5.0)
    end = bank._file._names_end
    with (tmp_path / "w0.bin").open("r+b") as file:
        file.seek(end - 3)
        file.write(b"\0\0\0")
    assert MetricsFile(tmp_path / "w0.bin").cell("new") is not None
    assert [(one.name, one.value) for one in MetricsDirectory(tmp_path).latest()["w0"][1:]] == [("kept", 1.0), ("new", 0.0)]


def test_metrics_file_of_another_layout_is_made_anew(tmp_path):
    """A file that an other program left is replaced by its owner, and shown by nobody."""
    (tmp_path / "w0.bin").write_bytes(b"hgmetrics0" + bytes(9_000))
    (tmp_path / "w1.bin").write_bytes(b"")
    assert MetricsDirectory(tmp_path).latest() == {"w0": [], "w1": []}
    MetricsFile(tmp_path / "w0.bin").cell("a").add(1.0)
    assert MetricsDirectory(tmp_path).latest()["w0"] == [OVERFLOW, Sample("a", (), 1.0)]


def test_metrics_directory_sees_that_a_file_was_replaced(tmp_path):
    """Names of a file that is gone are not shown for the one that took its place."""
    directory = MetricsDirectory(tmp_path)
    MetricsFile(tmp_path / "w0.bin").cell("old").add(1.0)
    directory.latest()
    Path(tmp_path / "w0.bin").rename(tmp_path / "away")
    MetricsFile(tmp_path / "w0.bin").cell("new").add(2.0)
    assert directory.latest()["w0"] == [OVERFLOW, Sample("new", (), 2.0)]


def test_metrics_bank_names_end_before_the_file_does(tmp_path, monkeypatch):
    """When the room for names is used up the loss is counted, as it is when the cells are."""
    monkeypatch.setattr(metrics_file, "FILE_BYTES", metrics_file.NAMES_AT + 200)
    bank = MetricsFile(tmp_path / "w0.bin")
    for at in range(10):
        bank.cell(f"name_{at}" * 4).add(1.0)
    samples = MetricsDirectory(tmp_path).latest()["w0"]
    assert sum(sample.value for sample in samples) == 10.0
    assert samples[0].value == 10.0 - (len(samples) - 1) > 0


def test_metrics_file_that_cannot_be_made_is_an_error_of_the_store(tmp_path):
    """A path below a plain file is said to be one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        MetricsFile(tmp_path / "file" / "w0.bin")


def test_exemplars_are_the_last_ones_of_each_process(metrics):
    """What a process shows as examples is read back as it was, replaces what it showed before, and is no sample."""
    first, second = (Exemplar("h", (("route", ODD),), "+Inf", "ab" * 16, 0.1 + at, 1.7e9) for at in range(2))
    bank = metrics.bank("w0")
    metrics.bank("w1").cell("c").add(1.0)
    bank.exemplify([first, second])
    bank.exemplify([second])
    assert {process: list(shown) for process, shown in metrics.snapshots.exemplars().items()} == {"w0": [second]}
    assert set(metrics.snapshots.latest()) == {"w0", "w1"}
