"""The scan of a pickle's imports: complete for every way of saving, runs nothing, and is closed to what it cannot follow."""

from __future__ import annotations

import io
import os
import pickle

import cloudpickle
import joblib
import numpy as np
import pytest

from adapters.runtimes.pickles.scan import NotScannable, scanned


class Runs:
    """Runs a program when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 7",)


@pytest.mark.parametrize("protocol", range(6))
def test_scan_names_what_every_protocol_imports(protocol):
    """A call is found in each protocol, and is not made."""
    imports, kind = scanned(io.BytesIO(pickle.dumps(Runs(), protocol)))
    assert (imports, kind) == (["posix:system"], "pickle")


@pytest.mark.parametrize("compress", [0, ("zlib", 3), ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_scan_passes_over_joblib_arrays(tmp_path, compress):
    """What follows a raw array is found, in every compression that can be read, and inside arrays of objects."""
    value = {"a": np.arange(1_000.0), "o": np.array([Runs(), None], object), "t": np.array(["x", "yz"]), "z": Runs()}
    joblib.dump([value, np.random.RandomState(1)], tmp_path / "m", compress=compress)
    with (tmp_path / "m").open("rb") as file:
        imports, kind = scanned(file)
    assert kind == "joblib"
    assert {"posix:system", "numpy:dtype"} <= set(imports)
    assert any(name.endswith("__randomstate_ctor") for name in imports)


def test_scan_follows_code_pickled_by_value():
    """Cloudpickle's functions and classes are followed to the end."""

    class Local:
        def predict(self, rows):
            return np.sum(rows)

    imports, _ = scanned(io.BytesIO(cloudpickle.dumps(Local())))
    assert any(name.startswith("cloudpickle") for name in imports)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "no pickle"),
        (b"hello", "no pickle"),
        (pickle.dumps(list(range(100)))[:-5], "no pickle, or is cut short"),
        (pickle.dumps(1) + b"more", "bytes follow"),
        (b"Pid\n.", "outside the file"),
        (b"\x80\x02\x82\x01.", "extension registry"),
        (b"\x04\x22\x4d\x18rest", "lz4"),
        (b"(" * 100_000, "no pickle"),
    ],
)
def test_scan_refuses_what_it_cannot_follow(content, match):
    """A file that is no pickle, is cut short, or refers to what is not in it is refused."""
    with pytest.raises(NotScannable, match=match):
        scanned(io.BytesIO(content))
