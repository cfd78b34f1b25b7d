"""Throughput and CPU time under closed load: the path beside its baselines, and what log, monitor and a shadow cost."""

from __future__ import annotations

from statistics import median

from rich.console import Console
from rich.table import Table

from loadtests.bench import Bench, Contender, Samples, cpu_us, in_turn, middle, ratios, requests_per_s

CONNECTIONS = (1, 16, 64)


def measure_path(console: Console, bench: Bench, *, rounds: int, seconds: float) -> Samples:
    """Load every contender in turn, round by round, and print the table."""
    samples, sections = Samples(list), _sections(bench)
    for number in range(rounds):
        with console.status(f"path: round {number + 1} of {rounds}"):
            for connections, contenders, _ in sections:
                for contender in in_turn(contenders, number):
                    samples[contender.name, connections].append(bench.taken(contender, connections, seconds))
    table = Table(title=f"One row of 20 floats, one core, medians of {rounds} rounds", title_justify="left")
    for column in ("server", "callers", "requests/s", "× by hand", "min–max", "CPU µs", "× by CPU", "p50 ms", "p99 ms"):
        table.add_column(column, justify="left" if column == "server" else "right")
    for connections, contenders, by_hand in sections:
        for contender in contenders:
            table.add_row(contender.name, str(connections), *_row(samples, contender, by_hand, connections))
        table.add_section()
    console.print(table)
    return samples


def measure_pairs(console: Console, bench: Bench, *, rounds: int, seconds: float) -> Samples:
    """Load each side of a pair in turn, round by round, and print the differences."""
    samples, connections = Samples(list), CONNECTIONS[-1]
    for number in range(rounds):
        with console.status(f"pairs: round {number + 1} of {rounds}"):
            for contender in in_turn((bench.unlogged, bench.served, bench.shadowed), number):
                samples[contender.name, connections].append(bench.taken(contender, connections, seconds))
    table = Table(title=f"Paired, {connections} callers, medians of {rounds} rounds", title_justify="left")
    for column in ("what", "requests/s", "throughput lost", "min–max", "CPU µs more"):
        table.add_column(column, justify="left" if column == "what" else "right")
    pairs = (("log and monitor", bench.served, bench.unlogged), ("a shadow of every request", bench.shadowed, bench.served))
    for what, with_it, without in pairs:
        these, others = samples[with_it.name, connections], samples[without.name, connections]
        lost = [1 - kept for kept in ratios(these, others, requests_per_s)]
        more = median(one.cpu_us - other.cpu_us for one, other in zip(these, others, strict=True))
        spread = f"{min(lost):.1%} – {max(lost):.1%}"
        table.add_row(what, f"{middle(these, requests_per_s):,.0f}", f"{median(lost):.1%}", spread, f"{more:+.1f}")
    console.print(table)
    return samples


def _sections(bench: Bench) -> list[tuple[int, tuple[Contender, ...], Contender]]:
    """Return connections, who is loaded, and whom they are compared with, who runs beside the gateway in each round."""
    wide = (bench.raw, bench.fastapi, bench.starlette, bench.served)
    named = (bench.starlette_named, bench.served_named)
    return [
        *((connections, wide, bench.starlette) for connections in CONNECTIONS),
        (CONNECTIONS[-1], named, bench.starlette_named),
    ]


def _row(samples: Samples, contender: Contender, by_hand: Contender, connections: int) -> list[str]:
    these, others = samples[contender.name, connections], samples[by_hand.name, connections]
    faster, cheaper = ratios(these, others, requests_per_s), ratios(others, these, cpu_us)
    return [
        f"{middle(these, requests_per_s):,.0f}",
        f"{median(faster):.2f}",
        "" if contender is by_hand else f"{min(faster):.2f}–{max(faster):.2f}",
        f"{middle(these, cpu_us):.1f}",
        f"{median(cheaper):.2f}",
        f"{middle(these, lambda sample: sample.burst.p50_us) / 1e3:.2f}",
        f"{middle(these, lambda sample: sample.burst.p99_us) / 1e3:.2f}",
    ]
