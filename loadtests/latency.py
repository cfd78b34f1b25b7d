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
BURSTS = 8  # of a round: many short ones, so that some pass while the machine is quiet
KEPT = 0.99  # of the rate; a generator or server that sends less was overloaded, and its latency means nothing
QUIET = 1 / 3  # of the rounds are looked at apart: those in which the generator, which has its own core, was the least late
LOGGED, UNLOGGED, AGAIN = "gateway", "gateway, no log or monitor", "the same, again"


def measure_latency(console: Console, bench: Bench, *, rounds: int, seconds: float) -> bool:
    """Measure `BURSTS` short bursts of each server a round and print; return whether rate and requests were kept."""
    full = median(requests_per_s(bench.taken(bench.served, CONNECTIONS[-1], seconds)) for _ in range(FULL_ROUNDS))
    # They share the generator's core, and their turns would be measured as the server's latency.
    for plane in ("monitor", "control", "archive"):
        step_back(bench.gateway.planes[plane])
    servers = {LOGGED: bench.served, UNLOGGED: bench.unlogged, AGAIN: bench.unlogged}
    bursts: defaultdict[str, list[Paced]] = defaultdict(list)
    for number in range(BURSTS * rounds):
        with console.status(f"latency: burst {number + 1} of {BURSTS * rounds}"):
            for name in in_turn((LOGGED, UNLOGGED, AGAIN), number):
                bench.gateway.caught_up_s()
                contender = servers[name]
                bursts[name].append(
                    opened(
                        contender.server.url,
                        route=contender.route,
                        requests_per_s=full / 2,
                        seconds=2 * seconds / BURSTS,
                    )
                )
    _print(console, bursts, rate=full / 2)
    everything = [burst for taken_ in bursts.values() for burst in taken_]
    return not any(burst.errors for burst in everything) and min(_sent(part) for part in bursts.values()) >= KEPT * full / 2


def _print(console: Console, bursts: dict[str, list[Paced]], *, rate: float) -> None:
    everything = list(range(len(bursts[LOGGED])))
    by_lateness = sorted(everything, key=lambda number: max(part[number].late_p99_us for part in bursts.values()))
    table = Table(
        title=f"Latency at half load ({rate:,.0f} requests/s from when each was due), medians of short bursts",
        caption="Monitor, control and archive run only while the generator, whose core they share, sleeps.",
        title_justify="left",
        caption_justify="left",
    )
    for column in ("server", "sent/s", "p50 ms", "p99 ms", "p99 min–max", "generator late, p50 µs", "p99 µs"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for title, rounds in (("all", everything), ("quiet", by_lateness[: round(len(everything) * QUIET)])):
        for name, part in bursts.items():
            _add(table, f"{name} ({title} {len(rounds)})", [part[number] for number in rounds])
        for name, one, other in (("log and monitor, paired", LOGGED, UNLOGGED), ("nothing, paired", AGAIN, UNLOGGED)):
            pairs = [(bursts[one][number], bursts[other][number]) for number in rounds]
            table.add_row(
                name,
                "",
                f"{median(with_.p50_us - without.p50_us for with_, without in pairs) / 1e3:+.2f}",
                f"{median(with_.p99_us - without.p99_us for with_, without in pairs) / 1e3:+.2f}",
            )
        table.add_section()
    console.print(table)


def _add(table: Table, name: str, part: Sequence[Paced]) -> None:
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


def _sent(part: Sequence[Paced]) -> float:
    return median(burst.sent_per_s for burst in part)
