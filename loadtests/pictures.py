"""The pictures of `docs/evidence.md`, drawn from the build's own evidence: `python -m loadtests.pictures [DIRECTORY]`.

Only the traffic is made up, from fixed seeds: every request has a key of its own, and a tenth of them goes to the challenger.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Final
from xml.sax.saxutils import escape

import numpy as np

from gateway.core.evidence import Evidence, EvidencePlan, Outcome, Side
from loadtests.detection.made import z_score

SHARE: Final = 0.1  # of the keys that go to the challenger
BASE: Final = 0.10  # of the champion's answers that are errors
ALPHA: Final = 0.01
REQUESTS: Final = 6_000
PATHS: Final = 12  # drawn of each kind
SOUND: Final = 300  # sound challengers that are looked at again and again
LOOK_EVERY: Final = 100  # requests
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 720, 340, 64, 40, 150, 52
GREY, RED, BLUE, INK = "#8a8f98", "#c2410c", "#1d4ed8", "#3f4450"  # readable on white and on black


@dataclass(frozen=True)
class Line:
    """A line of a plot.

    Attributes:
        points: x and y, in the plot's units.
        label: Beside its end; empty for none.
    """

    points: Sequence[tuple[float, float]]
    colour: str
    label: str = ""
    width: float = 1.5
    is_dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """One axis: its ends, what it shows, and where it is marked, with the marks' texts."""

    low: float
    high: float
    title: str
    marks: Sequence[tuple[float, str]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw both pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("docs/pictures"))
    directory = parser.parse_args(arguments).directory
    (directory / "evidence.svg").write_text(evidence_picture())
    (directory / "looking.svg").write_text(looking_picture())
    return 0


def evidence_picture() -> str:
    """Return log10 e of sound challengers and of harmful ones, over the challenger's requests."""
    bound = -math.log10(ALPHA)
    high = 2.0 * bound
    lines = [Line([(0.0, bound), (600.0, bound)], INK, "e = 100: rolled back", is_dashed=True)]
    for challenger, colour, label in (
        (BASE, GREY, "sound: 10 % errors"),
        (0.2, BLUE, "harmful: 20 %"),
        (0.4, RED, "harmful: 40 %"),
    ):
        for seed in range(PATHS):
            points = [(at, min(value, high)) for at, value in evidence(challenger, seed) if at <= 600.0]
            until = next((i for i, (_, value) in enumerate(points) if value >= high), len(points) - 1)
            lines.append(Line(points[: until + 1], colour, label if seed == 0 else "", width=1.0))
    x = Axis(0.0, 600.0, "requests of the challenger", [(n, str(n)) for n in range(0, 601, 100)])
    y = Axis(-2.0, high, "log10 e", [(n, f"{n:g}") for n in range(-2, int(high) + 1)])
    return plot("Evidence against a challenger, while the champion fails in 10 %", lines, x, y)


def looking_picture() -> str:
    """Return how many sound challengers have been rolled back by each rule after so many looks."""
    looks = REQUESTS // LOOK_EVERY
    by_e, by_z = np.zeros(looks), np.zeros(looks)
    for seed in range(SOUND):
        e, z = first_alarms(seed)
        by_e[e:] += 1
        by_z[z:] += 1
    lines = [
        Line([(at + 1.0, 100.0 * count / SOUND) for at, count in enumerate(by_z)], RED, "z-test at 5 %", width=2.5),
        Line([(at + 1.0, 100.0 * count / SOUND) for at, count in enumerate(by_e)], BLUE, "e ≥ 100", width=2.5),
    ]
    x = Axis(0.0, float(looks), "looks", [(n, str(n)) for n in range(0, looks + 1, 10)])
    y = Axis(0.0, 40.0, "sound challengers rolled back", [(n, f"{n} %") for n in range(0, 41, 10)])
    return plot(f"{SOUND} challengers that are exactly as good as the champion", lines, x, y)


def evidence(challenger: float, seed: int) -> list[tuple[float, float]]:
    """Return the challenger's requests and log10 e, after each of its requests."""
    test, found, count = Evidence(EvidencePlan(alpha=ALPHA)), [(0.0, 0.0)], 0
    for at, (side, is_bad) in enumerate(traffic(challenger, seed)):
        test.observe(Outcome(side, f"{seed}-{at}", float(is_bad), at / 50.0, SHARE))
        if side is Side.CHALLENGER:
            count += 1
            found.append((float(count), test.reading().log_e / math.log(10.0)))
    return found


def first_alarms(seed: int) -> tuple[int, int]:
    """Return at which look each rule rolls a sound challenger back; the number of looks for never."""
    test, tallies = Evidence(EvidencePlan(alpha=ALPHA)), [[0, 0], [0, 0]]
    by_e = by_z = looks = REQUESTS // LOOK_EVERY
    for at, (side, is_bad) in enumerate(traffic(BASE, seed)):
        test.observe(Outcome(side, f"{seed}-{at}", float(is_bad), at / 50.0, SHARE))
        tally = tallies[side is Side.CHALLENGER]
        tally[0] += 1
        tally[1] += is_bad
        look = at // LOOK_EVERY
        if by_e == looks and test.has_reached_bound:
            by_e = look
        if by_z == looks and at % LOOK_EVERY == LOOK_EVERY - 1 and z_score(tallies) > NormalDist().inv_cdf(0.95):
            by_z = look
    return by_e, by_z


def traffic(challenger: float, seed: int) -> list[tuple[Side, bool]]:
    """Return who answered each request, and whether with an error."""
    rng = np.random.default_rng([seed, round(challenger * 100)])
    is_challenger = rng.random(REQUESTS) < SHARE
    is_bad = rng.random(REQUESTS) < np.where(is_challenger, challenger, BASE)
    sides = (Side.CHAMPION, Side.CHALLENGER)
    return [(sides[int(which)], bool(bad)) for which, bad in zip(is_challenger, is_bad, strict=True)]


def plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    """Return a plot of lines as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="sans-serif">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        _text(LEFT, 22, title, size=14),
    ]
    for value, mark in y.marks:
        at = _y(y, value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e3e5e9"/>')
        parts.append(_text(LEFT - 8, at + 4, mark, anchor="end"))
    parts += [_text(_x(x, value), HEIGHT - BOTTOM + 18, mark, anchor="middle") for value, mark in x.marks]
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x.title, anchor="middle"))
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle:.0f})">{_text(16, middle, y.title, anchor="middle")}</g>')
    labelled: list[float] = []
    for line in lines:
        path = " ".join(f"{_x(x, at):.1f},{_y(y, value):.1f}" for at, value in _thinned(line.points))
        dash = ' stroke-dasharray="6 4"' if line.is_dashed else ""
        stroke = f'stroke="{line.colour}" stroke-width="{line.width}" stroke-opacity="0.8"{dash}'
        parts.append(f'<polyline points="{path}" fill="none" {stroke}/>')
    for line in lines:
        if line.label:
            at = _free(_y(y, line.points[-1][1]) + 4, labelled)
            parts.append(_text(WIDTH - RIGHT + 8, at, line.label, colour=line.colour))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(axis: Axis, value: float) -> float:
    return LEFT + (value - axis.low) / (axis.high - axis.low) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    share = (max(axis.low, min(axis.high, value)) - axis.low) / (axis.high - axis.low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _text(x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, colour: str = INK) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}">{escape(text)}</text>'


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return about 100 of the points, the ends among them: more cannot be told apart."""
    step = max(1, len(points) // 100)
    return [*points[:-1:step], points[-1]]


def _free(at: float, taken: list[float]) -> float:
    """Return the next height with room for a label."""
    while any(abs(at - other) < 15 for other in taken):
        at += 15
    taken.append(at)
    return at


if __name__ == "__main__":
    raise SystemExit(main())
