"""What every `Readings` promises."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from adapters.memory import MemoryReadings
from adapters.readings_file import ReadingsFile
from gateway.core.errors import StoreFailed


@pytest.fixture(params=["memory", "file"])
def readings(request, tmp_path):
    return MemoryReadings() if request.param == "memory" else ReadingsFile(tmp_path / "run" / "readings.json")


def test_readings_are_none_before_the_first_picture(readings):
    """Nothing was published yet."""
    assert readings.latest() is None


def test_readings_are_the_last_picture(readings):
    """The newest picture stands, and does not change with what it was made from."""
    picture: dict[str, object] = {"routes": {"delays": {"psi": 0.25, "names": ["ü"]}}}
    readings.publish({"routes": {}})
    readings.publish(picture)
    picture["routes"] = None
    assert readings.latest() == {"routes": {"delays": {"psi": 0.25, "names": ["ü"]}}}


def test_readings_are_never_a_mixture(readings):
    """A reader beside a publisher sees whole pictures only."""
    readings.publish({"turn": 0, "copies": [0] * 500})
    done = threading.Event()

    def publish() -> None:
        for at in range(300):
            readings.publish({"turn": at, "copies": [at] * 500})
        done.set()

    thread = threading.Thread(target=publish)
    thread.start()
    while not done.is_set():
        picture = readings.latest()
        assert set(picture["copies"]) == {picture["turn"]}
    thread.join()


def test_readings_file_takes_numbers_of_numpy_and_none_of_json(tmp_path):
    """A reading that is NaN is shown as missing; it never stops the monitor."""
    readings = ReadingsFile(tmp_path / "readings.json")
    readings.publish({"a": float("nan"), "b": np.float64(1.5), "c": np.arange(3), "d": {1: 2}})
    assert readings.latest() == {"a": None, "b": 1.5, "c": [0, 1, 2], "d": {"1": 2}}


def test_readings_file_that_is_damaged_is_an_error_of_the_store(tmp_path):
    """Half a file is said to be one."""
    (tmp_path / "readings.json").write_text('{"a": ')
    with pytest.raises(StoreFailed):
        ReadingsFile(tmp_path / "readings.json").latest()
