"""Pickled models in their own processes: what they answer, what they cannot do, and what becomes of them when they go wrong."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from adapters.clock import SystemClock
from adapters.heap import Heap
from adapters.memory import MemoryBank
from adapters.runtimes.chained import ChainedInstance
from adapters.runtimes.pickled import PickledRuntime
from adapters.stores.artifacts import DirectoryArtifacts
from gateway.core.errors import LoadFailed, OutputMismatch, PredictFailed
from gateway.core.models import Runtime
from gateway.core.tensors import Datatype, Signature, TensorSpec
from gateway.serving.warming import warmed

sys.path.insert(0, str(Path(__file__).parent))
import models
from models import Doomed, Fickle, Large, LargeWhere, Leaking, Opens, Prying, Sum, Where, runtime, saved, version_of

ROWS = {"input": np.arange(6.0).reshape(3, 2)}


def row(value: float) -> dict[str, np.ndarray]:
    return {"input": np.array([[value, 0.0]])}


def answering(instance) -> int:
    """Return the process that answers."""
    return int(instance.predict(row(0))["prediction"][0])


@pytest.fixture
def load(tmp_path):
    """Load models into instances that are closed after the test."""
    loaded = []

    def start(model: object, *, signature=models.SIGNATURE, pickled: dict[str, object] | None = None, **limits: object):
        version = saved(tmp_path / f"{len(loaded)}.pkl", model, signature=signature, **(pickled or {}))
        loaded.append(runtime(tmp_path / f"scratch{len(loaded)}", **limits).load(tmp_path / f"{len(loaded)}.pkl", version))
        return loaded[-1]

    yield start
    for instance in loaded:
        instance.close()


def is_running(pid: int) -> bool:
    """Return whether a process still runs; one that nobody has collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_process_is_no_nicer_than_it_is_told_when_the_load_is(tmp_path):
    """A load steps back; the process that it starts answers, and has the niceness of the gateway with its own on top."""
    version, made, found = saved(tmp_path / "m.pkl", Where()), runtime(tmp_path / "scratch", niceness=1), []

    def niced() -> None:
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + 5)
        instance = made.load(tmp_path / "m.pkl", version)
        pid = answering(instance)
        found.append(os.getpriority(os.PRIO_PROCESS, pid))
        instance.close()

    loader = threading.Thread(target=niced)
    loader.start()
    loader.join()
    assert found == [os.getpriority(os.PRIO_PROCESS, 0) + 1]


def test_model_answers_from_another_process(load):
    """The answer is the model's, and no model was made in this process."""
    assert load(Sum()).predict(ROWS)["prediction"].tolist() == [1.0, 5.0, 9.0]
    assert answering(load(Where())) != os.getpid()


def test_pickle_reaches_no_file_socket_or_process(load, tmp_path):
    """Every attempt beyond its own directory fails while it predicts; writing in its own directory works."""
    outside = tmp_path / "secret"
    outside.write_text("x")
    answer = load(Prying(str(outside)), signature=models.TEXTS).predict(ROWS)["prediction"][0].decode()
    found = dict(part.split(": ") for part in answer.split(";"))
    assert found.pop("own") == "done"
    assert set(found.values()) == {"PermissionError"}, found
    assert not (tmp_path / "secret.new").exists()


@pytest.mark.parametrize("call", ["open", "socket"])
def test_pickle_that_acts_while_it_is_unpickled_fails(tmp_path, call):
    """A pickle whose reading opens a file or a socket does neither, and is not loaded."""
    import socket

    path = tmp_path / "made"
    model = Opens(open, str(path), "w") if call == "open" else Opens(socket.socket)
    version = saved(tmp_path / "m.pkl", model)
    with pytest.raises(LoadFailed, match="PermissionError"):
        runtime(tmp_path / "scratch").load(tmp_path / "m.pkl", version)
    assert not path.exists()


def test_only_registered_bytes_are_unpickled(tmp_path):
    """A file with other bytes than the registered digest's is refused before any process sees it."""
    version = saved(tmp_path / "m.pkl", Sum())
    saved(tmp_path / "m.pkl", Where())
    with pytest.raises(LoadFailed, match="was registered"):
        runtime(tmp_path / "scratch").load(tmp_path / "m.pkl", version)


def test_pickle_imports_nothing_that_its_scan_does_not_name(tmp_path):
    """A global that the stored scan lacks ends the load, so that what is shown is what is imported."""
    version = saved(tmp_path / "m.pkl", Sum())
    assert version.pickled is not None
    fewer = replace(version.pickled, imports=version.pickled.imports[1:])
    with pytest.raises(LoadFailed, match="which its scan does not name"):
        runtime(tmp_path / "scratch").load(tmp_path / "m.pkl", replace(version, pickled=fewer))


def test_hanging_process_is_killed_and_replaced(load):
    """The caller is told after the bound, the process is dead, and the next caller gets another."""
    instance = load(Where(), predict_timeout_s=1.0)
    first = answering(instance)
    began_s = time.monotonic()
    with pytest.raises(PredictFailed, match="did not answer within 1 s"):
        instance.predict(row(60))
    assert time.monotonic() - began_s < 3
    assert not is_running(first)
    assert answering(instance) != first


@pytest.mark.parametrize(("harm", "told"), [(1, "exited with status 3"), (2, "killed by SIGSEGV"), (3, "out of memory")])
def test_dying_process_is_replaced(load, harm, told):
    """A process that exits, crashes or runs out of memory fails its caller with the reason; the next gets another."""
    instance = load(Doomed())
    first = answering(instance)
    with pytest.raises(PredictFailed, match=told):
        instance.predict(row(harm))
    assert answering(instance) != first
    assert not is_running(first)


def test_error_of_the_model_costs_no_process(load):
    """What the model raises reaches the caller, and the same process answers the next."""
    instance = load(Doomed())
    first = answering(instance)
    with pytest.raises(PredictFailed, match="ValueError: no such row"):
        instance.predict(row(4))
    assert answering(instance) == first


def test_leaking_process_is_replaced_between_callers(load, until):
    """A process that has grown over its memory while idle is replaced, and no caller notices."""
    instance = load(Leaking(), memory_bytes=2**27)
    first = answering(instance)
    for _ in range(2):
        answering(instance)
    until(lambda: not is_running(first), within_s=10)
    assert answering(instance) != first


def test_version_weighs_what_its_processes_hold(tmp_path):
    """A pickled version counts with the memory of its processes, by itself as in a chain, not with the size of its file."""
    model = Large()
    model.held = b""
    version = saved(tmp_path / "m.pkl", model, instances_min=2)
    artifacts, pickles = DirectoryArtifacts(tmp_path / "artifacts"), runtime(tmp_path / "scratch")
    artifacts.put(tmp_path / "m.pkl", version.digest)
    warm = warmed(version, artifacts, {Runtime.PICKLED: pickles}, runs=1, memory=Heap(), clock=SystemClock())
    assert version.size_bytes < 100_000
    assert warm.memory_bytes < 100_000_000 < warm.outside_bytes < 400_000_000
    assert ChainedInstance([version], [warm.instance]).outside_bytes > 100_000_000
    warm.instance.close()


def test_version_weighs_what_its_later_processes_hold(load, until):
    """A process that is started because others are at work counts, as do those at work, until it has ended."""
    model = LargeWhere()
    model.held = b""
    instance = load(model, pickled={"instances_min": 1, "instances_max": 2}, predict_timeout_s=60.0)
    alone = instance.outside_bytes
    asking = [threading.Thread(target=instance.predict, args=(row(2.0),)) for _ in range(2)]
    for thread in asking:
        thread.start()
    until(lambda: instance.outside_bytes > alone + 40_000_000, within_s=60)
    for thread in asking:
        thread.join()
    run = instance.begin(row(0.1))
    assert instance.outside_bytes > alone + 40_000_000
    run.finish()
    os.kill(answering(instance), signal.SIGKILL)
    until(lambda: instance.outside_bytes < alone + 40_000_000, within_s=60)


def test_memory_of_its_imports_is_not_the_process_own(load):
    """What a process holds is counted beyond its imports, and is next to nothing for a model that holds nothing."""
    instance = load(Sum(), memory_bytes=2**25)
    assert instance.predict(ROWS)["prediction"].tolist() == [1.0, 5.0, 9.0]
    fork = instance._free[0]
    assert fork.own_bytes() > 2**22
    assert fork.held_bytes() < 2**22


def test_process_that_finds_no_room_is_started_when_there_is(load, tmp_path, until):
    """While no scratch directory can be made a version is not loaded, for a reason that is told; a running one comes back."""
    instance, scratch = load(Where(), predict_timeout_s=1.0), tmp_path / "scratch0"
    first = answering(instance)
    shutil.rmtree(scratch)
    scratch.write_text("no directory")
    os.kill(first, signal.SIGKILL)

    def is_told(reason: str) -> bool:
        with pytest.raises(PredictFailed) as failed:
            instance.predict(row(0))
        return reason in str(failed.value)

    until(lambda: is_told("its processes died"), within_s=60)
    version, fresh = saved(tmp_path / "m.pkl", Sum()), runtime(tmp_path / "other")
    (tmp_path / "other").rmdir()
    (tmp_path / "other").write_text("no directory")
    with pytest.raises(LoadFailed, match="no process can be started for it: File exists"):
        fresh.load(tmp_path / "m.pkl", version)
    scratch.unlink()
    until(lambda: is_answered(instance), within_s=60)


def is_answered(instance) -> bool:
    """Return whether a prediction comes back."""
    try:
        return answering(instance) > 0
    except PredictFailed:
        return False


def test_what_has_no_name_is_counted_and_ends_no_version(tmp_path, until):
    """A fault that nobody foresaw while a process is replaced is counted, and the version is served again after it."""

    class Failing(PickledRuntime):
        left = 1

        def acquire(self, pickled):
            if self.is_met and self.left:
                self.left -= 1
                raise ZeroDivisionError
            return super().acquire(pickled)

        is_met = False

    counted = MemoryBank().cell("unexpected")
    version = saved(tmp_path / "m.pkl", Where())
    pickles = Failing(limits=models.limits(tmp_path / "scratch"), interpreter=sys.executable, unexpected=counted)
    instance = pickles.load(tmp_path / "m.pkl", version)
    pid = answering(instance)
    pickles.is_met = True
    os.kill(int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    until(lambda: counted.value == 1.0, within_s=60)
    until(lambda: is_answered(instance), within_s=60)
    instance.close()


@pytest.mark.parametrize("value", [1, 2])
def test_answer_of_another_kind_is_no_answer(load, value):
    """Where whole numbers of 32 bits were registered, neither a fraction nor a larger number is cut to fit."""
    signature = Signature(models.SIGNATURE.inputs, (TensorSpec("prediction", Datatype.INT32, (-1,)),))
    instance = load(Fickle(), signature=signature)
    found = instance.predict(row(0))["prediction"]
    assert (found.dtype, found.tolist()) == (np.int32, [0])
    with pytest.raises(OutputMismatch, match="and INT32 was registered"):
        instance.predict(row(value))
    run = instance.begin(row(value))
    until_readable(run)
    assert run.answer() is None
    with pytest.raises(OutputMismatch, match="and INT32 was registered"):
        run.finish()


def until_readable(run) -> None:
    """Wait for a run's answer."""
    assert select.select([run.fileno()], [], [], 60)[0]


def test_deaths_in_a_row_are_answered_with_growing_pauses(load):
    """Replacing stops being immediate when it does not help, and callers are told at once."""
    instance = load(Doomed(), predict_timeout_s=0.5, pickled={"instances_max": 1})
    told = []
    while not told or "its processes died" not in told[-1]:
        assert len(told) < 100  # on a busy machine some wait for the next process in vain
        with pytest.raises(PredictFailed, match=r"exited with status 3|its processes died|within 0\.5 s") as failed:
            instance.predict(row(1))
        told.append(str(failed.value))
    assert len(told) > 2


def test_pool_grows_to_its_most(load):
    """Callers at once are answered by different processes, up to the most that the version may have."""
    instance = load(Where(), pickled={"instances_min": 1, "instances_max": 3})
    assert instance.concurrency == 3
    found: list[int] = []
    callers = [threading.Thread(target=lambda: found.append(int(instance.predict(row(1.0))["prediction"][0]))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(set(found)) == 3


def test_closing_ends_every_process(load, until):
    """A closed instance leaves neither its processes nor their fork server behind."""
    instance = load(Where())
    pid = answering(instance)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    instance.close()
    until(lambda: not is_running(pid) and not is_running(parent))


def test_processes_end_with_their_parent(tmp_path, until):
    """When the process that loaded a version is killed, the version's processes go too, even while they are at work."""
    saved(tmp_path / "m.pkl", Where())
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import threading, time, numpy, models\n"
        "from pathlib import Path\n"
        f"path = Path({str(tmp_path / 'm.pkl')!r})\n"
        f"runtime = models.runtime(Path({str(tmp_path / 'scratch')!r}), predict_timeout_s=60.0)\n"
        "instance = runtime.load(path, models.version_of(path))\n"
        "print(int(instance.predict({'input': numpy.zeros((1, 2))})['prediction'][0]), flush=True)\n"
        "instance.predict({'input': numpy.full((1, 2), 50.0)})\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert is_running(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_running(pid), within_s=5)


def test_interpreter_must_be_allowed(tmp_path):
    """A version may bring only an interpreter that the settings name."""
    version = saved(tmp_path / "m.pkl", Sum(), interpreter="/usr/bin/other")
    with pytest.raises(LoadFailed, match="not among those allowed"):
        runtime(tmp_path / "scratch").load(tmp_path / "m.pkl", version)


def environment(path: Path, number: int) -> str:
    """Make a Python environment with NumPy and a package `tariff` of that version; return its interpreter."""
    import cloudpickle

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(path)], check=True)
    packages = next(path.glob("lib/python*/site-packages"))
    site = Path(np.__file__).parents[1]
    for source in [*site.glob("numpy"), *site.glob("numpy.libs"), Path(cloudpickle.__file__).parent]:
        shutil.copytree(source, packages / source.name, copy_function=_linked, ignore=shutil.ignore_patterns("tests"))
    (packages / "tariff.py").write_text(
        f"class Tariff:\n    n_features_in_ = 2\n    def predict(self, rows):\n        return rows.sum(axis=1) * {number}\n"
    )
    return str(path / "bin" / "python")


def _linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_two_versions_of_a_library_serve_side_by_side(tmp_path):
    """Each version is unpickled by its own interpreter, with that environment's packages."""
    path = tmp_path / "m.pkl"
    path.write_bytes(b"ctariff\nTariff\n)\x81.")  # Tariff(), as any pickler writes it
    interpreters = tuple(environment(tmp_path / f"env{number}", number) for number in (1, 10))
    pickles = runtime(tmp_path / "scratch", interpreters=interpreters)
    instances = [pickles.load(path, version_of(path, interpreter=one)) for one in interpreters]
    assert [one.predict(ROWS)["prediction"].tolist() for one in instances] == [[1.0, 5.0, 9.0], [10.0, 50.0, 90.0]]
    for one in instances:
        one.close()


LACKING = """#!{python}
import ctypes, os, struct, sys
step = lambda code, value, yes=0, no=0: struct.pack("<HBBI", code, yes, no, value)
code = step(0x20, 0) + step(0x15, 444, 0, 1) + step(0x06, 0x00050000 | 38) + step(0x06, 0x7FFF0000)
libc, held = ctypes.CDLL(None), ctypes.create_string_buffer(code, len(code))
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("<HxxxxxxQ", len(code) // 8, ctypes.addressof(held)), 0, 0) == 0
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


def test_kernel_without_landlock_is_refused_or_named(tmp_path):
    """Where Landlock is missing nothing is unpickled, or with `warn` the process says what it lacks."""
    lacking = tmp_path / "python"
    lacking.write_text(LACKING.format(python=sys.executable))
    lacking.chmod(0o755)
    version = saved(tmp_path / "m.pkl", Sum(), interpreter=str(lacking))
    with pytest.raises(LoadFailed, match="cannot confine a pickled model: it lacks Landlock"):
        runtime(tmp_path / "scratch", interpreters=(str(lacking),)).load(tmp_path / "m.pkl", version)
    warned = runtime(tmp_path / "scratch", interpreters=(str(lacking),), confinement="warn")
    fork = warned.opened(tmp_path / "m.pkl", version.digest, version.pickled)
    assert fork.facts["confined"] == ["seccomp"]
    assert "Landlock" in fork.facts["missing"][0]
    fork.end()
