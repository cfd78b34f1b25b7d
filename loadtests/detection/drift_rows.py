"""The rows about drift of made-up rows: false alarms, delays, the stability index, and what drift detection costs."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

from gateway.core.split import SLOTS
from loadtests import load, model
from loadtests.detection.drifting import (
    KNOWN,
    SHIFTS,
    Stream,
    adwin_cost,
    cost,
    delays,
    false_alarms,
    false_breaches,
    outcome_delays,
)
from loadtests.detection.lines import Asked, Line, count_limits, delay_line, judged, median_limits, share_text, upper_limit
from loadtests.gateway import ROUTE, measured_gateway
from loadtests.open_loop import opened
from loadtests.processes import step_back

REFERENCES = (500, 5_000, 50_000)
DUMMY_EVERY = 1_000  # rows; finds anything after half of them and is wrong 100 times in 100,000
OUTCOMES = ((0.15, 600.0), (0.2, 200.0), (0.4, 35.0))  # errors from .1, and the median that is wanted
BARE = "bare"  # the small model again, registered without a training sample


def quiet_lines(asked: Asked) -> Iterator[Line]:
    """Yield false alarms of a whole model in independent rows, by its number of features, over references of three sizes."""
    for features, rows in ((1, 300_000), (20, 120_000), (200, 100_000)):
        references = REFERENCES[:1] if features == 200 and asked.of(True, False, False) else REFERENCES
        made = [Stream(features, reference) for reference in references]
        yield _quiet_line(_features(features), made, asked.of(2_000, rows, 2 * rows), asked)


def correlated_lines(asked: Asked) -> Iterator[Line]:
    """Yield false alarms of a whole model in rows that resemble their neighbours."""
    for features, rows in ((1, 200_000), (20, 150_000)):
        made = [Stream(features, reference, 0.9) for reference in (5_000, 50_000)]
        yield _quiet_line(f"φ .9, {_features(features)}", made, asked.of(2_000, rows, 4 * rows), asked)


def _features(count: int) -> str:
    return "1 feature" if count == 1 else f"{count} features"


def _quiet_line(what: str, made: list[Stream], rows: int, asked: Asked) -> Line:
    alarms = sum(asked.pool.map(false_alarms, made, [rows] * len(made), [asked.seed] * len(made)))
    per = 1e5 / (rows * len(made))
    low, high = count_limits(alarms)
    found = f"{alarms} in {rows * len(made):,} rows = {alarms * per:.2f} ({low * per:.2f}–{high * per:.2f})"
    verdict = judged(alarms * per <= 1.0, is_sure=high * per <= 1.3)  # 3 × 100,000 rows without an alarm say 1.23
    return Line(what, "≤ 1 per 100,000 rows", found, f"{1e5 / DUMMY_EVERY:.0f}", verdict)


def outcome_lines(asked: Asked) -> Iterator[Line]:
    """Yield how many outcomes it takes to find that errors rose, the rate known and learned from 2,000."""
    runs = asked.of((5, 5), (2_000, 300), (5_000, 2_000))
    for rate, most in OUTCOMES:
        found = asked.pool.map(outcome_delays, [rate] * 2, [asked.of(20_000, KNOWN, KNOWN), 2_000], runs, [asked.seed] * 2)
        for known, wanted, name in zip(found, (most, None), ("rate known", "learned from 2,000"), strict=True):
            yield delay_line(f"errors .1 → {rate:g}, {name}", known, wanted, f"{DUMMY_EVERY // 2}")


def shift_lines(asked: Asked) -> Iterator[Line]:
    """Yield how many rows it takes to find that one feature moved; with one feature and 5,000 rows there is a target."""
    made = [Stream(1, 5_000), Stream(1, 5_000, sigma=1e-3), Stream(1, 5_000, sigma=1e4), Stream(1, 5_000, missing=0.1)]
    made += [
        Stream(features, rows) for features, rows in itertools.product((1, 20, 200), REFERENCES) if (features, rows) != (1, 5_000)
    ]
    for stream in made[: asked.of(1, 99, 99)]:
        runs = {1: asked.of(3, 100, 300), 20: asked.of(3, 40, 100)}.get(stream.features, asked.of(1, 6, 20))
        found = list(asked.pool.map(delays, [stream] * runs, asked.seeds(runs)))
        what = f"{stream.features} of {stream.reference_rows:,}" + (f", σ {stream.sigma:g}" if stream.sigma != 1.0 else "")
        what += f", {stream.missing:.0%} missing" if stream.missing else ""
        has_target = (stream.features, stream.reference_rows) == (1, 5_000)
        for (name, _, _, most), rows in zip(SHIFTS, zip(*found, strict=True), strict=True):
            yield delay_line(f"{name}, {what}", rows, most if has_target else None, f"{DUMMY_EVERY // 2}")


def breach_lines(asked: Asked) -> Iterator[Line]:
    """Yield how often the stability index breaches its bound by chance."""
    windows = asked.of(20, 1_500, 5_000)
    for rows, reference_rows in itertools.product((100, 500, 2_000), (500, 5_000)):
        [(breaches, bare)] = asked.pool.map(false_breaches, [rows], [reference_rows], [windows], [asked.seed])
        verdict = judged(breaches <= 0.01 * windows, is_sure=upper_limit(breaches, windows) <= 0.015)
        what = f"{rows:,} rows, reference of {reference_rows:,}"
        yield Line(what, "≤ 1%, surely ≤ 1.5%", share_text(breaches, windows), f"{bare / windows:.0%}", verdict)


def cost_lines(asked: Asked) -> Iterator[Line]:
    """Yield what a feature costs, and whether callers notice."""
    [(adwin_us, adwin_kb)] = asked.pool.map(adwin_cost, [asked.seed])
    for features in (1, 20, 200):
        repeats = asked.of(1, 3, 5)
        each = list(asked.pool.map(cost, [features] * repeats, asked.seeds(repeats)))
        cost_us, size_kb = min(us for us, _ in each), max(kb for _, kb in each)
        low_high = f"{cost_us:.2f} µs of CPU (to {max(us for us, _ in each):.2f})"
        verdicts = [judged(cost_us <= 2.0), judged(size_kb <= 6.0)] if features > 1 else []
        targets = ("≤ 2 µs a feature-event", "≤ 6 kB a feature") if features > 1 else ("", "")
        yield Line(f"{_features(features)}: a feature-event", targets[0], low_high, f"{adwin_us:.2f} µs", *verdicts[:1])
        yield Line(f"{_features(features)}: checkpoint", targets[1], f"{size_kb:.1f} kB", f"{adwin_kb:.1f} kB", *verdicts[1:])
    yield _latency_line(asked)


def _latency_line(asked: Asked) -> Line:
    """Return the p99 of a route whose features are watched, over that of the same model without a training sample, in turn."""
    rounds, seconds = asked.of(2, 60, 600), asked.of(0.3, 0.5, 0.5)  # short, so that both of a pair meet the same machine
    with tempfile.TemporaryDirectory() as scratch, measured_gateway(Path(scratch)) as gateway:
        with gateway.house.admin() as admin:
            artifact = model.write_model(Path(scratch) / "bare.onnx", seed=7)
            admin.register(BARE, artifact, metadata=model.metadata())
            variants = [{"name": "champion", "version": "1", "weight": SLOTS}]
            admin.put_route(BARE, {"model": BARE, "variants": variants}, if_match=0)
        rate = load.closed(gateway.house.url, route=ROUTE, connections=64, seconds=2).requests_per_s / 2
        for plane in ("monitor", "control", "archive"):  # they share the generator's core
            step_back(gateway.planes[plane])
        ratios = []
        for number in range(rounds):
            p99_us = {}
            for route in (ROUTE, BARE) if number % 2 else (BARE, ROUTE):
                gateway.caught_up_s()
                p99_us[route] = opened(gateway.house.url, route=route, requests_per_s=rate, seconds=seconds).p99_us
            ratios.append(100.0 * (p99_us[ROUTE] / p99_us[BARE] - 1.0))
    low, high = median_limits(ratios)
    middle = sorted(ratios)[rounds // 2]
    found = f"{middle:+.1f}% ({low:+.1f}% to {high:+.1f}%) of {rounds} pairs, {rate:,.0f}/s"
    return Line("p99 with 20 features watched, without", "≤ +2%", found, "0", judged(middle <= 2.0, is_sure=high <= 2.0))
