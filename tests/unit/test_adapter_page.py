"""docs/adding-an-adapter.md: its example is an adapter, and what it points at is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gateway.ports.readings import Detector

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "adding-an-adapter.md").read_text()
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIGNAL = st.lists(st.floats(0.0, 1.0), max_size=200)


def made() -> Detector:
    """Return the page's detector, with its alarm at one half."""
    names: dict[str, type] = {}
    exec(EXAMPLE, names)
    detector: Detector = names["LevelDetector"](0.5, 0.2)
    return detector


def test_example_alarms_once_when_the_level_is_passed():
    """The alarm is raised by the update that passes the level, and not again while it stays above."""
    detector = made()
    alarms = [detector.update([1.0]).alarm_count for _ in range(20)]
    assert alarms.count(1) == sum(alarms) == 1
    assert alarms.index(1) == 3


@given(SIGNAL, SIGNAL)
def test_example_goes_on_exactly_from_its_state(before, after):
    """A detector restored from another's state gives the same readings."""
    one, other = made(), made()
    one.update(before)
    other.restore(one.state())
    assert [one.update([value]) for value in after] == [other.update([value]) for value in after]


def test_page_points_at_files_and_ports_that_exist():
    """Each path that the page names is there, and each port in the file that its row names."""
    paths = re.findall(r"`((?:adapters|gateway|tests)/[\w./]*)`", PAGE)
    assert [path for path in paths if not (ROOT / path).exists()] == []
    rows = re.findall(r"^\| another [^|]*\|([^|]*)\| `(\w+)\.py` \|", PAGE, re.MULTILINE)
    named = [(file, name) for names, file in rows for name in re.findall(r"`(\w+)`", names)]
    assert len(named) > 8
    assert [one for one in named if not hasattr(importlib.import_module(f"gateway.ports.{one[0]}"), one[1])] == []
