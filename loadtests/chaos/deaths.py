"""Processes that die, hang or are told to stop while callers are at it."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from pathlib import Path

from gateway.core.records import Outcome
from loadtests.chaos.callers import ROUTE, Caller, Loss, infer
from loadtests.chaos.harmed import SEGFAULT, SEIZE, STICK
from loadtests.chaos.world import Report, World, broken, is_good, records, until, world

STEADY_S = 2.5  # of traffic before harm, so that there is a rate to come back to
HANG_S = 2.0  # the watchdog's patience in these scenarios; 10 s by default
NEWS_S = 10.0  # for the records of what died
CONVICTED_S = 180.0  # some fourteen deaths convict a version, and back-off puts up to 10 s between a worker's


def worker_killed(directory: Path, *, workers: int = 1, times: int = 3) -> Report:
    """`kill -9` of a worker under load."""
    report = Report(f"worker killed, {workers} worker{'s' * (workers > 1)}")
    with world(directory, workers=workers) as gateway, gateway.traffic() as traffic:
        for turn in range(times):
            time.sleep(STEADY_S)
            pid, harm_s = gateway.kill("w0")
            gateway.until_succeeded("w0", pid)
            until(lambda: traffic.seen.good_since(harm_s), within_s=60, every_s=0.1)  # noqa: B023 - called within the turn
            time.sleep(STEADY_S)
            report.note_recovery(traffic.seen, harm_s, f"death {turn + 1}")
        traffic.stop()
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200}, "an answer was not 200")
        report.claim(broken(traffic.seen) <= 16 * times, "more connections broke than were open")
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def others_killed(directory: Path) -> Report:
    """`kill -9` of control, monitor and archive under load."""
    report = Report("control, monitor and archive killed")
    with world(directory) as gateway, gateway.traffic() as traffic:
        time.sleep(STEADY_S)
        for name in ("control", "monitor", "archive"):
            pid, harm_s = gateway.kill(name)
            gateway.until_succeeded(name, pid)
            if name == "control":
                until(lambda: is_good(gateway.house.admin_url + "/health/ready"))
            elif name == "monitor":
                gateway.until_monitor_caught_up()
            report.facts.append(f"{name} was at work again after {time.monotonic() - harm_s:.2f} s")
        traffic.stop()
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200} and not traffic.seen.losses, "a caller saw something")
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def model_segfaults(directory: Path, *, workers: int = 2, times: int = 3) -> Report:
    """Rows on which a version reads address 0, sent to it by name beside sound traffic."""
    report = Report(f"a version segfaults, {workers} worker{'s' * (workers > 1)}")
    with world(directory, workers=workers, is_harmed=True) as gateway, gateway.traffic() as traffic:
        for turn in range(times):
            time.sleep(STEADY_S)
            harm_s = time.monotonic()
            poison = ask_once(gateway, infer(SEGFAULT, version="2"))
            report.claim(Loss.UNANSWERED.value in poison, f"the caller of the row saw {poison}")
            time.sleep(STEADY_S)
            report.note_recovery(traffic.seen, harm_s, f"segfault {turn + 1}")
        traffic.stop()
        report.note_seen(traffic.seen)
        report.facts.append("the row's own caller: connection closed before a byte of the answer")
        report.claim(gateway.deaths()[-signal.SIGSEGV] == times, "not every death was a segmentation fault")
        report.claim(set(traffic.seen.statuses()) == {200}, "an answer was not 200")
        _check_blamed(report, gateway, Outcome.CRASHED, times)
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def challenger_segfaults(directory: Path) -> Report:
    """A rollout to a version that segfaults on 1 of 100 rows, each another so that none is soon refused, until it is ended."""
    report = Report("a challenger segfaults on 1 % of rows")
    requests = [infer(headers=f"Gateway-Assignment-Key: key-{key}\r\n") for key in range(5_000)]
    requests[::100] = [infer(SEGFAULT, seed=key, headers=f"Gateway-Assignment-Key: bad-{key}\r\n") for key in range(50)]
    with world(directory, workers=2, is_harmed=True) as gateway:
        rollout = gateway.admin.start_rollout(
            ROUTE, "2", plan={"steps": [5_000], "advances_itself": False, "rollouts_per_year": 100_000}, reason="chaos"
        )
        start_s = time.monotonic()
        with gateway.traffic(rate=200.0, requests=requests) as traffic:
            try:
                until(
                    lambda: gateway.admin.rollout(ROUTE, str(rollout["id"]))["state"] != "CANARY",
                    within_s=CONVICTED_S,
                    every_s=0.2,
                )
                report.facts.append(f"rolled back by itself after {time.monotonic() - start_s:.1f} s")
            except TimeoutError:
                report.claim(False, f"the monitor did not end the rollout within {CONVICTED_S:.0f} s")
            report.facts.append(f"{gateway.deaths()[-signal.SIGSEGV]} worker deaths until then")
            time.sleep(12)  # the longest back-off and a start
            tail_s = time.monotonic()
            time.sleep(STEADY_S)
        late = [loss for at_s, loss in traffic.seen.losses if at_s > tail_s]
        report.claim(not late, f"{len(late)} requests were lost after the rollback had settled")
        report.note_seen(traffic.seen)
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def model_seizes(directory: Path) -> Report:
    """A row on which a version never returns and holds the interpreter: the event loop stands still."""
    report = Report("a version hangs and holds the interpreter")
    settings = {"HEADGATE_SUPERVISOR_HANG_S": str(HANG_S)}
    with world(directory, workers=2, is_harmed=True, environment=settings) as gateway, gateway.traffic() as traffic:
        time.sleep(STEADY_S)
        harm_s = time.monotonic()
        poison = ask_once(gateway, infer(SEIZE, version="2"))
        report.facts.append(f"the row's own caller after {time.monotonic() - harm_s:.1f} s: {poison}")
        time.sleep(STEADY_S)
        report.note_recovery(traffic.seen, harm_s, f"the watchdog's patience was {HANG_S:.0f} s")
        traffic.stop()
        report.note_seen(traffic.seen)
        report.claim(set(traffic.seen.statuses()) == {200}, "an answer was not 200")
        _check_blamed(report, gateway, Outcome.HUNG, 1)
        report.check_log(gateway.data_dir, traffic.seen)
    return report


def model_sticks(directory: Path) -> Report:
    """Rows on which a version in a thread of its own never returns, beside good rows of the same version."""
    report = Report("a version hangs in its thread")
    settings = {
        "HEADGATE_SERVING_INLINE_US_MAX": "0.001",
        "HEADGATE_SERVING_RUN_HUNG_S": str(HANG_S),
        "HEADGATE_SUPERVISOR_HANG_S": str(HANG_S),
    }
    with world(directory, is_harmed=True, environment=settings) as gateway:
        route = {"model": ROUTE, "variants": [{"name": "only", "version": "2", "weight": 10_000}], "deadline_ms": 500}
        gateway.admin.put_route("stuck", route, if_match=0)
        with (
            gateway.traffic() as sound,
            gateway.traffic(rate=40.0, requests=[infer(route="stuck")]) as beside,
        ):
            time.sleep(STEADY_S)
            report.claim(set(beside.seen.statuses()) == {200}, "the version was not well before")
            before, harm_s = len(beside.seen.answers), time.monotonic()
            poison = ask_once(gateway, infer(STICK, route="stuck"))
            report.facts.append(f"the row's own caller, whose deadline is 0.5 s: {poison}")
            time.sleep(2 * HANG_S + 4 * STEADY_S)
            report.note_recovery(beside.seen, harm_s, f"a run may take {HANG_S:.0f} s, and the watchdog's patience is as long")
        after = Counter(status for _, _, status in beside.seen.answers[before:])
        report.facts.append(f"good rows of the same version afterwards: {dict(sorted(after.items()))}")
        report.claim(after.keys() <= {200, 503, 504}, "good rows saw something undocumented")
        report.note_seen(sound.seen)
        report.claim(set(sound.seen.statuses()) == {200}, "callers of another version saw something other than a break")
        for traffic in (sound, beside):
            report.check_log(gateway.data_dir, traffic.seen)
        start_s = time.monotonic()
        report.claim(gateway.house.stop() == 0, "the stop did not end in order")
        report.facts.append(f"stopped in order in {time.monotonic() - start_s:.1f} s")
    return report


def stopped_at_full_load(directory: Path, *, workers: int = 2, callers: int = 64, times: int = 3, signals: int = 1) -> Report:
    """SIGTERM while callers send as fast as answers come and honour `Connection: close`."""
    report = Report(f"SIGTERM{' twice' * (signals > 1)} at full load, {workers} workers")
    for _ in range(times):
        with world(directory, workers=workers) as gateway, gateway.traffic(rate=None, callers=callers) as traffic:
            time.sleep(1.0)
            harm_s = time.monotonic()
            for _ in range(signals):
                gateway.house.process.send_signal(signal.SIGTERM)
                time.sleep(0.02)
            code = gateway.house.process.wait(60)
            took_s = time.monotonic() - harm_s
            traffic.stop()
            report.claim(code == 0, f"the exit code was {code}")
            seen = traffic.seen
            answered = len([1 for _, done_s, _ in seen.answers if done_s > harm_s])
            report.facts.append(
                f"{len(seen.answers):,} answers, {answered:,} of them after the signal, {broken(seen)} requests without a"
                f" whole answer ({seen.lost(Loss.UNANSWERED)} closed before a byte, {seen.lost(Loss.TORN)} torn),"
                f" then refused; over after {took_s:.1f} s"
            )
            report.claim(set(seen.statuses()) == {200}, f"answers were {dict(seen.statuses())}")
            report.claim(broken(seen) == 0, f"{broken(seen)} requests that were sent got no whole answer")
            report.check_log(gateway.data_dir, seen)
    return report


def ask_once(gateway: World, request: bytes) -> str:
    """Send one request on a connection of its own and return how it ended, in words."""

    async def ask() -> str:
        caller = Caller(gateway.house.address)
        result = await caller.ask(request)
        caller.close()
        return result.value if isinstance(result, Loss) else f"{result.status} {result.body.decode()}"

    return asyncio.run(ask())


def _check_blamed(report: Report, gateway: World, outcome: Outcome, count: int) -> None:
    """Claim that the log blames version 2 so many times; what died beside it on the sound version is listed."""

    def blamed() -> Counter[str]:
        return Counter(record.version for record in records(gateway.data_dir) if record.outcome is outcome)

    try:
        until(lambda: blamed()["2"] >= count, within_s=NEWS_S, every_s=0.1)
    except TimeoutError:
        report.claim(False, f"the log blames version 2 {blamed()['2']} times, not {count}")
    report.facts.append(f"records that say {outcome.value}, by version: {dict(sorted(blamed().items()))}")
