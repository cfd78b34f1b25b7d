"""`headgate demo`: the whole loop on real flights in a few minutes, a table of what happened, and an exit code that means it."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gateway.core.errors import GatewayError
from gateway.demo.flights import Flights, load_flights
from gateway.demo.house import House, NotStarted, start_house
from gateway.demo.replay import Replay
from gateway.demo.story import ROUTE, Story
from gateway.demo.summary import Summary, summarise
from gateway.demo.training import train_versions

REQUESTS_PER_S: Final = 1_000.0  # what two cores carry with every process of the gateway, and the load, beside each other
PLAIN_WIDTH: Final = 150  # of lines that go to a file
LAG_POLL_S: Final = 0.5
FIRST_MONTH: Final = 3  # the versions were trained on January and February


def run_demo(data_dir: Path | None = None, *, keep: bool = False, seconds: float = 150.0) -> int:
    """Run the demonstration and return the exit code: 0 when every claim held.

    Args:
        data_dir: An empty or new directory; a temporary one by default. It stays, so that it can be looked at.
        keep: Leave the gateway running until Ctrl-C.
        seconds: Of the replay; training and start come on top.
    """
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    directory = Path(tempfile.mkdtemp(prefix="headgate-demo-")) if data_dir is None else data_dir
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_empty = not any(directory.iterdir())
    except OSError as error:
        console.print(f"[red]the demonstration cannot use its directory: {error}[/red]")
        return 2
    if not is_empty:
        console.print(f"[red]{directory} is not empty; give the demonstration a new directory[/red]")
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # the gateway is stopped in order, whoever ends the demonstration
    signal.signal(signal.SIGINT, _interrupt)
    try:
        return _run(console, directory, keep=keep, seconds=seconds)
    except (GatewayError, NotStarted) as failure:
        console.print(f"[red]{failure}[/red]\nThe gateway's journal: {directory / 'gateway.log'}")
        return 1
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _run(console: Console, directory: Path, *, keep: bool, seconds: float) -> int:
    with console.status("reading 336,776 flights and training three versions"):
        flights = load_flights()
        models = directory / "demo"
        models.mkdir(exist_ok=True)
        candidates = train_versions(flights, models)
    console.print(f"{len(flights):,} flights departed; versions trained on those before March")
    with console.status("starting the gateway"):
        house = start_house(directory)
    try:
        console.print(f"gateway at {house.url}, admin API and metrics at {house.admin_url}")
        with house.admin() as admin:
            board = _Board(console)
            story = Story(admin, seconds=seconds, say=board.say)
            story.register(candidates)
            replay = _replay(flights, house)
            uvloop.run(_play(story, replay, house, board))
            with console.status("reading log, audit and archive"):
                summary = summarise(flights, replay.ledger, story.marks, admin, directory)
        _print_summary(console, summary, house)
        if keep:
            _wait_for_interrupt(console, house)
        return 0 if all(claim.held for claim in summary.claims) else 1
    finally:
        with console.status("stopping the gateway"):
            house.stop()


def _replay(flights: Flights, house: House) -> Replay:
    host, port = house.address
    rows = flights.between(FIRST_MONTH, 13)
    return Replay(flights, rows, host=host, port=port, route=ROUTE, token=house.token, requests_per_s=REQUESTS_PER_S)


async def _play(story: Story, replay: Replay, house: House, board: _Board) -> None:
    traffic = asyncio.create_task(replay.run())
    with board.shown(replay):
        beside = [asyncio.create_task(board.repaint()), asyncio.create_task(_follow(replay, house))]
        try:
            await story.play()
        finally:
            replay.stop()
            await traffic
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)


async def _follow(replay: Replay, house: House) -> None:
    """Tell the replay how far behind the monitor is, until cancelled."""
    while True:
        replay.follow(await asyncio.to_thread(house.monitor_lag_s))
        await asyncio.sleep(LAG_POLL_S)


class _Board:
    """The story so far and the traffic of the moment."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._live: Live | None = None
        self._replay: Replay | None = None

    def say(self, sentence: str) -> None:
        """Print a step of the story."""
        date = ""
        if self._replay is not None and self._replay.ledger.clock_s:
            date = datetime.fromtimestamp(self._replay.ledger.clock_s, UTC).strftime("%d %b")
        self._console.print(Text.assemble((f"{time.monotonic() - self._started_s:6.1f} s  {date:<7}", "dim"), sentence))

    @contextlib.contextmanager
    def shown(self, replay: Replay) -> Iterator[None]:
        """Show the traffic below the story."""
        self._replay = replay
        with Live(self._painted(), console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    async def repaint(self) -> None:
        """Paint anew until cancelled."""
        while self._live is not None:
            self._live.update(self._painted())
            await asyncio.sleep(0.5)

    def _painted(self) -> Group:
        ledger = self._replay.ledger if self._replay is not None else None
        if ledger is None:
            return Group()
        counts: dict[str, int] = {}
        for given in ledger.given[-2_000:]:
            counts[given.version] = counts.get(given.version, 0) + 1
        total = sum(counts.values()) or 1
        shares = "  ".join(f"version {version} {count / total:.0%}" for version, count in sorted(counts.items()))
        clock = datetime.fromtimestamp(ledger.clock_s, UTC).strftime("%d %B %Y %H:%M") if ledger.clock_s else "…"
        return Group(
            Text(
                f"{clock}   {len(ledger.given):,} answers, {ledger.truths:,} outcomes, {ledger.failed} failed   {shares}", "cyan"
            )
        )


def _print_summary(console: Console, summary: Summary, house: House) -> None:
    table = Table(title="Predictions by version", title_justify="left")
    for column in ("version", "answered", "in the shadow", "outcome known", "wrong", "accuracy"):
        table.add_column(column, justify="left" if column == "version" else "right")
    for quality in summary.qualities:
        table.add_row(
            quality.version,
            f"{quality.live:,}",
            f"{quality.shadowed:,}",
            f"{quality.judged:,}",
            f"{quality.wrong:,}",
            f"{quality.accuracy:.2%}" if quality.judged else "–",
        )
    console.print(table)
    console.print(f"answers {summary.answers:,}, log records of answers {summary.records:,}")
    if (pair := summary.pair).flights:
        console.print(
            f"wrong on the {pair.flights:,} flights that version 2 saw in the shadow: "
            f"version 2 {pair.shadow_wrong / pair.flights:.2%}, version 1 {pair.champion_wrong / pair.flights:.2%}"
        )
    if summary.found_after_s is not None:
        console.print(
            f"from the first answer of version 3 to its rollback: {summary.found_after_s:.1f} s, "
            f"{summary.bad_answers:,} wrong answers of {summary.faulty_answers:,}"
        )
    for claim in summary.claims:
        mark = "[green]✓[/green]" if claim.held else "[red]✗[/red]"
        console.print(f"{mark} {claim.sentence} [dim]({claim.detail})[/dim]", highlight=False)
    console.print(
        f"log      {house.data_dir / 'log'}\narchive  {house.data_dir / 'archive'} ({summary.parquet_files} files)",
        highlight=False,
    )
    console.print("board    grafana/dashboards/route.json", highlight=False)
    console.print(f"audit    headgate audit list --data-dir {house.data_dir}  (while the gateway runs: --keep)", highlight=False)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_for_interrupt(console: Console, house: House) -> None:
    console.print(f"the gateway stays at {house.url} and {house.admin_url} until Ctrl-C")
    with contextlib.suppress(KeyboardInterrupt):
        house.process.wait()
