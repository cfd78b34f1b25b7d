"""Plots: their ticks, their gaps, and what they say to those who do not see them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.drawing.plots import HEIGHT, LINES_MAX, WIDTH, Line, Plot, drawing, figure, nice_ticks

SVG = "{http://www.w3.org/2000/svg}"
TIMES = [float(at * 60) for at in range(6)]


def plot(*lines: Line, **more: object) -> Plot:
    """Return a plot of six minutes."""
    return Plot("Errors", "What failed.", TIMES, lines, lambda value: f"{value:.2f}", **more)


@given(st.floats(1e-12, 1e12))
def test_ticks_reach_the_highest_and_are_few(highest):
    """Ticks begin at 0, are even, reach the highest value, and are at most six."""
    ticks = nice_ticks(highest)
    assert ticks[0] == 0.0
    assert ticks[-1] >= highest * (1 - 1e-6)
    assert ticks[-2] < highest
    assert 3 <= len(ticks) <= 6


@pytest.mark.parametrize("highest", [0.0, float("inf"), -1.0])
def test_ticks_of_nothing_are_those_of_one(highest):
    """What has no height has an axis all the same."""
    assert nice_ticks(highest) == [0.0, 1.0]


def test_gap_breaks_line_and_lonely_value_is_a_dot():
    """Nothing is drawn where nothing is known: two parts and a dot for 1 1 – 1 – 1 1 with its neighbours."""
    svg = ElementTree.fromstring(drawing(plot(Line("a", [1.0, 2.0, None, 1.0, None, None])), id="p"))
    assert len(svg.findall(f"{SVG}polyline")) == 1
    assert len(svg.findall(f"{SVG}circle")) == 1


def test_values_lie_where_the_axis_says():
    """The highest tick is the top, 0 the bottom; every point is inside the picture."""
    svg = ElementTree.fromstring(drawing(plot(Line("a", [0.0, 4.0, 2.0, 0.0, 4.0, 1.0]), level=2.0, marks=(90.0, 1e9)), id="p"))
    points = [tuple(map(float, one.split(","))) for one in svg.find(f"{SVG}polyline").get("points").split()]
    assert points[2][1] == pytest.approx((points[0][1] + points[1][1]) / 2, abs=0.2)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)
    [level] = [one for one in svg.findall(f"{SVG}line") if one.get("class") == "level"]
    assert float(level.get("y1")) == pytest.approx(points[2][1], abs=0.2)
    assert len([one for one in svg.findall(f"{SVG}line") if one.get("class") == "mark"]) == 1


def test_names_are_text_and_every_line_is_in_the_numbers():
    """What looks like markup is shown as it is; lines beyond the four that are drawn stand in the table."""
    lines = [Line(f"<b>{at}</b>", [float(at)] * 6) for at in range(LINES_MAX + 2)]
    shown = figure(plot(*lines), id="p", empty="")
    assert "<b>" not in shown
    assert shown.count("<polyline") == LINES_MAX
    assert shown.count("&lt;b&gt;5&lt;/b&gt;") >= 2
    assert "2 more are in the numbers" in shown


def test_plot_of_nothing_is_a_sentence():
    """Without a value there is no picture."""
    assert "<svg" not in figure(plot(Line("a", [None] * 6)), id="p", empty="Nothing was tried.")
