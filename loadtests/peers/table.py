"""From bursts to the lines of a table: medians over rounds, the gateway's ratio to each server in the same round, the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from rich.table import Table

from loadtests.load import Burst
from loadtests.peers.rows import Row

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Line:
    """One server in one row.

    Attributes:
        ratio: The gateway's requests a second over this server's, the median of the rounds; None where it has no meaning.
        spread: The least and the greatest of them.
        target: What the ratio has to reach, where something was asked.
        failed: Requests without a right answer, over all rounds.
    """

    title: str
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int
    ratio: float | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    target: float | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None or self.ratio is None else self.ratio >= self.target


def lines(row: Row, titles: Mapping[str, str], bursts: Mapping[str, Sequence[Burst]]) -> list[Line]:
    """Return a line for each server that was measured, in the order of `titles`.

    Args:
        titles: By key; `GATEWAY` is the gateway's.
        bursts: By key, one a round.
    """
    return [_line(row, key, title, bursts[key], bursts.get(GATEWAY, ())) for key, title in titles.items() if bursts.get(key)]


def _line(row: Row, key: str, title: str, these: Sequence[Burst], gateways: Sequence[Burst]) -> Line:
    ratios: list[float] = []
    if key != GATEWAY and all(burst.requests for burst in these):
        ratios = [own.requests_per_s / other.requests_per_s for own, other in zip(gateways, these, strict=False)]
    return Line(
        title=title,
        requests_per_s=median(burst.requests_per_s for burst in these),
        p50_ms=median(burst.p50_us for burst in these) / 1e3,
        p99_ms=median(burst.p99_us for burst in these) / 1e3,
        failed=sum(burst.errors for burst in these),
        ratio=median(ratios) if ratios else None,
        spread=(min(ratios), max(ratios)) if ratios else (0.0, 0.0),
        target=row.targets.get(key),
    )


def table(row: Row, found: Sequence[Line], reasons: Mapping[str, str], *, rounds: int) -> Table:
    """Return what is printed of a row.

    Args:
        reasons: By title, why a server was not measured.
    """
    printed = Table(title=f"{row.name}: {row.title}; one core, medians of {rounds} rounds", title_justify="left")
    for column in ("server", "requests/s", "gateway ×", "min–max", "asked", "", "p50 ms", "p99 ms", "failed"):
        printed.add_column(column, justify="left" if column in ("server", "") else "right")
    for line in found:
        printed.add_row(*_cells(line))
    for title in reasons:
        printed.add_row(title, "not measured")
    printed.caption = "\n".join(f"{title}: {reason}" for title, reason in reasons.items()) or None
    return printed


def _cells(line: Line) -> list[str]:
    verdict = {True: "met", False: "missed", None: ""}[line.is_met]
    return [
        line.title,
        f"{line.requests_per_s:,.0f}",
        "" if line.ratio is None else f"{line.ratio:.2f}",
        "" if line.ratio is None else f"{line.spread[0]:.2f}–{line.spread[1]:.2f}",
        "" if line.target is None else f"≥ {line.target:g}",
        verdict,
        f"{line.p50_ms:.2f}",
        f"{line.p99_ms:.2f}",
        str(line.failed or ""),
    ]
