"""Lines over time as SVG, with their title and description for who cannot see them and their numbers as a table beneath.

Colours come from the style's classes and stand as attributes too, for readers that show a picture without its page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from gateway.drawing.markup import Cell, Markup, joined, table, tag
from gateway.drawing.words import UNKNOWN, moment

LINES_MAX: Final = 4  # that the eye tells apart
WIDTH: Final = 960
HEIGHT: Final = 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 28
_COLOURS: Final = ("#4b5563", "#1d4ed8", "#c2410c", "#666c75")
_DASHES: Final = (None, None, None, "5 3")
_RULE: Final = "#e4e2dd"
_QUIET: Final = "#666c75"
_FONT: Final = 13
_DAY_S: Final = 86_400.0
_TICKS: Final = 4
Form = Callable[[float], str]
Scale = Callable[[float], float]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: a value for each time, None where there is none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class Plot:
    """Lines over the same times, seconds since the epoch, evenly spaced.

    Attributes:
        says: What it shows, in a sentence.
        form: Writes a value, with its unit.
        level: A value to compare with, drawn across; None without one.
        marks: Times of what happened, drawn down.
    """

    title: str
    says: str
    times: Sequence[float]
    lines: Sequence[Line]
    form: Form
    level: float | None = None
    marks: Sequence[float] = ()


def figure(plot: Plot, *, id: str, empty: str) -> Markup:
    """Return a plot with its caption, its key and its numbers, or the sentence `empty`.

    Args:
        id: Of the figure, and the beginning of the ids in it; one of its own on the page.
    """
    if not any(value is not None for line in plot.lines for value in line.values):
        return joined(tag("h3", plot.title), tag("p", empty, class_="quiet"))
    drawn = plot.lines[:LINES_MAX]
    key = [tag("span", _swatch(at), line.name) for at, line in enumerate(drawn)]
    rest = f"{len(plot.lines) - LINES_MAX} more are in the numbers" if len(plot.lines) > LINES_MAX else None
    return tag(
        "figure",
        tag("figcaption", tag("h3", plot.title), tag("p", plot.says, class_="quiet small")),
        tag("div", drawing(plot, id=id), class_="wide"),
        tag("div", *key, tag("span", rest, class_="quiet") if rest else None, class_="legend"),
        tag("details", tag("summary", "Numbers"), _numbers(plot)),
        id=id,
    )


def drawing(plot: Plot, *, id: str) -> Markup:
    """Return the lines alone."""
    drawn = plot.lines[:LINES_MAX]
    values = [value for line in drawn for value in line.values if value is not None]
    ticks = nice_ticks(max([*values, plot.level or 0.0], default=0.0))
    step_s = plot.times[1] - plot.times[0] if len(plot.times) > 1 else 1.0
    begin_s, end_s = plot.times[0], plot.times[-1] + step_s

    def across(time_s: float) -> float:
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * (time_s - begin_s) / (end_s - begin_s), 1)

    def up(value: float) -> float:
        return round(HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * value / ticks[-1], 1)

    level = [] if plot.level is None else [_rule(up(plot.level), "level", _COLOURS[2])]
    marks = [
        tag("line", class_="mark", stroke=_COLOURS[2], stroke_width=1, x1=across(at), x2=across(at), y1=_TOP, y2=HEIGHT - _BOTTOM)
        for at in plot.marks
        if begin_s <= at < end_s
    ]
    return tag(
        "svg",
        tag("title", plot.title, id=f"{id}-title"),
        tag("desc", f"{plot.says} {_summary(plot)}", id=f"{id}-says"),
        *(_y_tick(up(tick), plot.form(tick)) for tick in ticks),
        *(_x_tick(across(time_s), text) for time_s, text in time_ticks(plot.times)),
        *level,
        *marks,
        *(shape for at, line in enumerate(drawn) for shape in _line(line, at, plot.times, step_s, (across, up))),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        xmlns="http://www.w3.org/2000/svg",
        role="img",
        aria_labelledby=f"{id}-title {id}-says",
        font_family="system-ui, sans-serif",
        font_size=_FONT,
    )


def nice_ticks(highest: float) -> list[float]:
    """Return even, round values from 0 to at least `highest`."""
    if not 0.0 < highest < math.inf:
        return [0.0, 1.0]
    rough = highest / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1.0, 2.0, 5.0, 10.0) if power * factor >= rough * (1.0 - 1e-9))
    return [step * at for at in range(math.ceil(highest / step - 1e-9) + 1)]


def time_ticks(times: Sequence[float]) -> Iterator[tuple[float, str]]:
    """Yield some of the times with a word for each: the hour, or the day where they cover more than two days."""
    every = max(1, math.ceil(len(times) / 6))
    form = "%m-%d" if times[-1] - times[0] > 2 * _DAY_S else "%H:%M"
    form = "%H:%M:%S" if len(times) > 1 and times[1] - times[0] < 60.0 else form
    for time_s in times[::every]:
        yield time_s, datetime.fromtimestamp(time_s, UTC).strftime(form)


def _line(line: Line, place: int, times: Sequence[float], step_s: float, scale: tuple[Scale, Scale]) -> Iterator[Markup]:
    """Yield a line's unbroken parts, points in the middle of their spans; a single value is a dot."""
    across, up = scale
    part: list[tuple[float, float]] = []
    for time_s, value in (*zip(times, line.values, strict=True), (0.0, None)):
        if value is not None:
            part.append((across(time_s + step_s / 2), up(value)))
            continue
        if len(part) == 1:
            yield tag("circle", class_=f"text{place}", fill=_COLOURS[place], cx=part[0][0], cy=part[0][1], r=2.5)
        elif part:
            points = " ".join(f"{x:g},{y:g}" for x, y in part)
            yield tag(
                "polyline",
                class_=f"line{place}",
                points=points,
                fill="none",
                stroke=_COLOURS[place],
                stroke_width=1.75,
                stroke_linejoin="round",
                stroke_dasharray=_DASHES[place],
            )
        part = []


def _rule(y: float, name: str, colour: str) -> Markup:
    return tag("line", class_=name, stroke=colour, stroke_dasharray="2 3", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y)


def _y_tick(y: float, text: str) -> Markup:
    return joined(
        tag("line", class_="grid", stroke=_RULE, x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y),
        tag("text", text, class_="text3", fill=_QUIET, x=_LEFT - 6, y=y + 4, text_anchor="end"),
    )


def _x_tick(x: float, text: str) -> Markup:
    return tag("text", text, class_="text3", fill=_QUIET, x=x, y=HEIGHT - 8, text_anchor="start")


def _swatch(place: int) -> Markup:
    stroke = tag(
        "line", class_=f"line{place}", stroke=_COLOURS[place], stroke_width=3, stroke_dasharray=_DASHES[place], x2=18, y1=5, y2=5
    )
    return tag("svg", stroke, viewBox="0 0 18 10", class_="swatch", aria_hidden="true")


def _summary(plot: Plot) -> str:
    """Return each line's range in words."""
    parts = []
    for line in plot.lines:
        known = [value for value in line.values if value is not None]
        if known:
            parts.append(f"{line.name}: {plot.form(min(known))} to {plot.form(max(known))}, last {plot.form(known[-1])}")
    return "; ".join(parts) + "."


def _numbers(plot: Plot) -> Markup:
    rows = [
        (time_s, values)
        for time_s, *values in zip(plot.times, *(line.values for line in plot.lines), strict=True)
        if any(value is not None for value in values)
    ]

    def cell(at: int) -> Cell[tuple[float, list[float | None]]]:
        return lambda row: UNKNOWN if (value := row[1][at]) is None else plot.form(value)

    columns: dict[str, Cell[tuple[float, list[float | None]]]] = {"from": lambda row: moment(row[0])}
    columns |= {line.name: cell(at) for at, line in enumerate(plot.lines)}
    return table(rows, columns, empty="", numbers=frozenset(columns) - {"from"})
