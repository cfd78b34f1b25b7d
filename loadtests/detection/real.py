"""Drift put into real streams, through a version's whole drift watch: features, answers and how often it was wrong.

A classifier learns a stretch of a stream, which is also its training sample; the rows after it are watched in their own order
and at their own times. The four drifts, at once and gradually, at a random row, and the scores are those of Cerqueira, Gomes,
Heyden, Pfahringer and Bifet, "A Framework for Evaluating and Benchmarking Concept Drift Detection Methods" (arXiv 2606.07789);
lengths and delays are our own. What a person is told of counts: incidents. A drift is found once, however many there are, and
whatever moves by itself before the drift is a false alarm.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median_low

import numpy as np
from sklearn.tree import DecisionTreeClassifier

from adapters.detectors.river import AdwinDetector
from gateway.core.models import Digest, Runtime, Target, Task, Version
from gateway.core.profile_bodies import profile_body
from gateway.core.profiles import build_profile
from gateway.core.tensors import Datatype, Signature, Tensor
from gateway.monitor.drifting import BATCH_ROWS, DriftWatch
from gateway.settings import MonitorSettings
from loadtests.detection.lines import Asked, Line, interval, judged
from loadtests.detection.made import TEMPLATE
from loadtests.detection.streams import STREAMS, Drift, Rows, drifted, stream

REFERENCE_ROWS = {"flights": 27_000, "weather": 6_500, "shuttle": 5_000}  # a month, a quarter of a year, a tenth of the file
BEGINS = (2_500, 4_000)  # rows of the stream in which drift begins; a version's outcomes are learned from 2,000
WIDTH = 1_000  # rows in which a gradual drift takes hold
DELAY_MAX = 1_000  # rows after which it would be noticed anyway; later is missed
DUMMIES = (250, 500, 1_000, 2_000, 4_000)  # rows between two alarms; the best of them is the dummy
TARGETS = {False: 0.36, True: 0.26}  # of F1, by whether the drift is gradual
FALSE_MAX = 2.0  # false alarms in 1,000 rows


@dataclass(frozen=True)
class Trial:
    """One stretch of a stream with a drift.

    Attributes:
        is_shuffled: Whether the stretch was put in random order, so that nothing but the drift moves.
    """

    stream: str
    drift: Drift
    is_gradual: bool
    seed: int
    is_shuffled: bool = False


@dataclass(frozen=True)
class Found:
    """What was told of a trial.

    Attributes:
        begins, ends: First and last row in which the drift takes hold, of so many rows.
        phase: In [0, 1), drawn for each trial: where a dummy begins to count.
        alarms, adwin: Rows of the alarms of the whole watch and of ADWIN on the classifier's mistakes.
    """

    begins: int
    ends: int
    rows: int
    phase: float
    alarms: tuple[int, ...]
    adwin: tuple[int, ...]


def tried(trial: Trial) -> Found:
    """Run one trial."""
    rng = np.random.default_rng([trial.seed, list(Drift).index(trial.drift), trial.is_gradual])
    rows = stream(trial.stream)
    begins, width = int(rng.integers(*BEGINS)), WIDTH if trial.is_gradual else 1
    count = begins + width + DELAY_MAX
    learned = REFERENCE_ROWS[trial.stream]
    first = int(rng.integers(len(rows) - learned - count))
    stretch = rows.at(slice(first, first + learned + count))
    if trial.is_shuffled:
        mixed = stretch.at(rng.permutation(len(stretch)))
        stretch = Rows(mixed.columns, mixed.values, mixed.labels, stretch.times_s)
    reference, later = stretch.at(slice(0, learned)), stretch.at(slice(learned, None))
    alarms, adwin = watched(reference, drifted(later, trial.drift, begins, width, rng))
    return Found(begins, begins + width, count, float(rng.random()), alarms, adwin)


def watched(reference: Rows, later: Rows) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the rows at which an incident began, and at which ADWIN on the classifier's mistakes alarmed."""
    answers = _answers(reference, later)
    mistakes = ((answers >= 0.5) != later.labels).astype(float).tolist()
    watch = DriftWatch(_version(reference), AdwinDetector, false_alarm_events=MonitorSettings().false_alarm_events)
    adwin, alarms, adwin_alarms = AdwinDetector(), [], []
    for first in range(0, len(later), BATCH_ROWS):
        last = min(first + BATCH_ROWS, len(later))
        record = replace(
            TEMPLATE,
            inputs=(Tensor("features", Datatype.FP64, later.values[first:last]),),
            outputs=(Tensor("probability", Datatype.FP64, answers[first:last, None]),),
        )
        begun = watch.observe(record, float(later.times_s[last - 1])) or 0
        for at in range(first, last):
            now_s = float(later.times_s[at])
            begun += watch.observe_outcome("loss", mistakes[at], now_s, answered_s=now_s) or 0
            if adwin.update([mistakes[at]]).alarm_count:
                adwin_alarms.append(at)
        if begun:
            alarms.append(last - 1)
    return tuple(alarms), tuple(adwin_alarms)


def _answers(reference: Rows, later: Rows) -> np.ndarray:
    """Return what a classifier that learned the reference answers: the probability of the label. Shape (rows,)."""
    tree = DecisionTreeClassifier(max_depth=6, min_samples_leaf=20, random_state=1).fit(reference.values, reference.labels)
    known = list(tree.classes_)
    return tree.predict_proba(later.values)[:, known.index(True)] if True in known else np.zeros(len(later))


def _version(reference: Rows) -> Version:
    sample = {column.name: reference.values[:, at] for at, column in enumerate(reference.columns)}
    return Version(
        model="delays",
        version="1",
        digest=Digest("0" * 64),
        size_bytes=1,
        runtime=Runtime.ONNX,
        runtime_version="1",
        signature=Signature((), ()),
        target=Target(Task.BINARY, "probability"),
        columns=reference.columns,
        profile=profile_body(build_profile(reference.columns, sample)),
    )


@dataclass(frozen=True)
class Score:
    """Over trials.

    Attributes:
        found, missed: Drifts.
        right, false: Alarms within a drift's time and before it began.
        rows: In all.
        delays: Rows from each drift that was found to its first alarm.
    """

    found: int
    missed: int
    right: int
    false: int
    rows: int
    delays: tuple[int, ...]

    @property
    def f1(self) -> float:
        """As the paper's own evaluator counts: every alarm in a drift's time is right, every drift without one is missed."""
        return 2.0 * self.right / max(1.0, 2.0 * self.right + self.false + self.missed)

    @property
    def f1_once(self) -> float:
        """The same where further alarms of a drift that was found count for nothing."""
        return 2.0 * self.found / max(1.0, 2.0 * self.found + self.false + self.missed)

    @property
    def false_per_1000(self) -> float:
        """False alarms in a thousand rows."""
        return 1_000.0 * self.false / self.rows


def scored(trials: Sequence[Found], alarms_of: Callable[[Found], Sequence[int]]) -> Score:
    """Return the score of alarms; a drift's time is from its beginning to `DELAY_MAX` rows after its end."""
    delays, right, false = [], 0, 0
    for one in trials:
        alarms = alarms_of(one)
        found = [at - one.begins for at in alarms if one.begins <= at <= one.ends + DELAY_MAX]
        false += sum(at < one.begins for at in alarms)
        right += len(found)
        delays += found[:1]
    return Score(len(delays), len(trials) - len(delays), right, false, sum(one.rows for one in trials), tuple(delays))


@dataclass(frozen=True)
class Dummy:
    """The best of those that alarm every so many rows, and in brackets the best where a drift counts once."""

    rows: int
    score: Score
    once: float

    def __str__(self) -> str:
        return f"{self.score.f1:.2f} ({self.once:.2f}), every {self.rows:,}"


def best_dummy(trials: Sequence[Found]) -> Dummy:
    """Return what the best dummies score."""
    every = {rows: scored(trials, lambda one, rows=rows: range(int(one.phase * rows), one.rows, rows)) for rows in DUMMIES}
    best = max(every, key=lambda rows: every[rows].f1)
    return Dummy(best, every[best], max(score.f1_once for score in every.values()))


def stream_lines(asked: Asked) -> Iterator[Line]:
    """Yield F1 and false alarms: by stream, and over all of them with the targets; then where nothing but the drift moves."""
    each = asked.of(1, 12, 60)
    names = asked.of(["shuttle"], list(STREAMS), list(STREAMS))
    for is_shuffled, is_gradual in itertools.product((False, True), asked.of([False], [False, True], [False, True])):
        seeds = asked.seeds(max(1, each // 4) if is_shuffled else each)
        made = [Trial(*one, is_gradual, seed, is_shuffled) for one in itertools.product(names, Drift) for seed in seeds]
        trials = list(asked.pool.map(tried, made, chunksize=4))
        kind = ("gradual" if is_gradual else "at once") + (", rows shuffled" if is_shuffled else "")
        parts = {f"{name}, {kind}": {one for one in made if one.stream == name} for name in names}
        parts |= {f"{drift.value}, {kind}": {one for one in made if one.drift is drift} for drift in Drift}
        for what, chosen in parts.items():
            yield _line(what, [found for one, found in zip(made, trials, strict=True) if one in chosen])
        yield from _judged_lines(f"all, {kind}", trials, None if is_shuffled else TARGETS[is_gradual])


def _line(what: str, trials: Sequence[Found]) -> Line:
    return Line(what, "", _text(scored(trials, lambda one: one.alarms)), str(best_dummy(trials)))


def _text(score: Score) -> str:
    delay = f", after {median_low(score.delays)}" if score.delays else ""
    share = f"{score.found} of {score.found + score.missed}{delay}"
    return f"F1 {score.f1:.2f} ({score.f1_once:.2f}), {share}, {score.false_per_1000:.2f} false"


def _judged_lines(what: str, trials: Sequence[Found], target: float | None) -> Iterator[Line]:
    score, dummy = scored(trials, lambda one: one.alarms), best_dummy(trials)
    adwin = scored(trials, lambda one: one.adwin)
    if target is None:
        yield _line(what, trials)
    else:
        least = max(target, dummy.score.f1)
        is_sure = interval(score.found, len(trials))[0] > least / 2.0
        kept = judged(score.f1 > least, is_sure=is_sure)
        yield Line(what, f"F1 > {target} and dummy's", _text(score), str(dummy), kept)
        told = f"{score.false_per_1000:.2f} ({score.false} in {score.rows:,} rows)"
        few = judged(score.false_per_1000 <= FALSE_MAX)
        yield Line(f"{what}: false alarms", f"≤ {FALSE_MAX:g} in 1,000", told, f"{dummy.score.false_per_1000:.2f}", few)
    yield Line(f"{what}: ADWIN on mistakes", "", _text(adwin))
