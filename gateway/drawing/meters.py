"""Small bars inside a line of text: a value against its bound, and how a whole is split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.drawing.markup import Markup, tag

WIDTH: Final = 160
_BOUND_AT: Final = 0.8  # of the width, so that what is over its bound is seen to be over
_SHADES: Final = 4  # that the eye tells apart; a fifth variant repeats the first


def meter(value: float | None, bound: float, *, says: str) -> Markup:
    """Return a bar that reaches its mark at the bound.

    Args:
        value: Less than 0 draws as 0, over the end as the end; None draws nothing but the mark.
        says: What the bar shows, in words.
    """
    full = WIDTH * _BOUND_AT
    length = min(WIDTH, max(0.0, full * value / bound)) if value is not None and bound > 0.0 else 0.0
    is_over = value is not None and value >= bound
    return tag(
        "svg",
        tag("rect", class_="track", y=4, width=WIDTH, height=6, rx=3),
        tag("rect", class_="over" if is_over else "fill", y=4, width=round(length, 1), height=6, rx=3) if length else None,
        tag("rect", class_="mark", x=full - 0.75, width=1.5, height=14),
        class_="meter",
        viewBox=f"0 0 {WIDTH} 14",
        role="img",
        aria_label=says,
    )


def split_bar(shares: Sequence[tuple[str, float]]) -> Markup:
    """Return one bar cut by shares that sum to 1."""
    parts, at = [], 0.0
    for place, (name, part) in enumerate(shares):
        if part > 0.0:
            shade = f"shade{place % _SHADES}"
            parts.append(
                tag("rect", tag("title", name), class_=shade, x=round(1000 * at, 1), width=round(1000 * part, 1), height=10)
            )
        at += part
    says = ", ".join(name for name, _ in shares)
    return tag("svg", *parts, class_="split", viewBox="0 0 1000 10", preserveAspectRatio="none", role="img", aria_label=says)
