"""Latency at half of the gateway's throughput, open loop, with log and monitor and without, in neighbouring bursts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import median

from rich.console import Console
from rich.table import Table

from loadtests.bench import Bench, in_turn, requests_per_s
from loadtests.open_loop import Paced, opened
from loadtests.processes import step_back
from loadtests.throughput import CONNECTIONS

FULL_ROUNDS = 3  # to know what half load is
KEPT = 0.99  # of the rate; a generator or server that sends less was overloaded, and its latency means nothing


def measure_latency(console: Console, bench: Bench, *, rounds: int, seconds: float) -> bool:
    """Measure twice `rounds` bursts of each server and print; return whether rate and requests were kept."""
    full = median(requests_per_s(bench.taken(bench.served, CONNECTIONS[-1], seconds)) for _ in range(FULL_ROUNDS))
    # They share the generator's core, and their turns would be measured as the server's latency.
    for plane in ("monitor", "control", "archive"):
        step_back(bench.gateway.planes[plane])
    bursts: defaultdict[str, list[Paced]] = defaultdict(list)
    for number in range(2 * rounds):
        with console.status(f"latency: round {number + 1} of {2 * rounds}"):
            for contender in in_turn((bench.served, bench.unlogged), number):
                bench.gateway.caught_up_s()
                bursts[contender.name].append(
                    opened(contender.server.url, route=contender.route, requests_per_s=full / 2, seconds=seconds)
                )
    _print(console, bursts[bench.served.name], bursts[bench.unlogged.name], rate=full / 2)
    everything = [burst for taken_ in bursts.values() for burst in taken_]
    return not any(burst.errors for burst in everything) and min(_sent(part) for part in bursts.values()) >= KEPT * full / 2


def _print(console: Console, logged: Sequence[Paced], unlogged: Sequence[Paced], *, rate: float) -> None:
    table = Table(
        title=f"Latency at half load ({rate:,.0f} requests/s from when each was due), medians of {len(logged)} bursts",
        caption="Monitor, control and archive run only while the generator, whose core they share, sleeps.",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("server", "sent/s", "p50 ms", "p99 ms", "p99 min–max", "generator late, p50 µs", "p99 µs"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for name, part in (("gateway", logged), ("gateway, no log or monitor", unlogged)):
        p99s_ms = [burst.p99_us / 1e3 for burst in part]
        table.add_row(
            name,
            f"{_sent(part):,.0f}",
            f"{median(burst.p50_us for burst in part) / 1e3:.2f}",
            f"{median(p99s_ms):.2f}",
            f"{min(p99s_ms):.2f}–{max(p99s_ms):.2f}",
            f"{median(burst.late_p50_us for burst in part):.0f}",
            f"{median(burst.late_p99_us for burst in part):.0f}",
        )
    pairs = list(zip(logged, unlogged, strict=True))
    table.add_row(
        "log and monitor, paired",
        "",
        f"{median(one.p50_us - other.p50_us for one, other in pairs) / 1e3:+.2f}",
        f"{median(one.p99_us - other.p99_us for one, other in pairs) / 1e3:+.2f}",
    )
    console.print(table)


def _sent(part: Sequence[Paced]) -> float:
    return median(burst.sent_per_s for burst in part)
