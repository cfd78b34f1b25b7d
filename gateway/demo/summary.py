"""What really happened, from three sides: what callers got, what the log holds, what the audit log says.

Nothing here asks the gateway for a verdict on itself: the log is read as plain files, accuracy is computed from the callers'
answers and the flights' outcomes, and every claim of the demonstration is a check with a name that can fail.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.client import AdminClient
from gateway.core.audit import AuditEntry, first_broken
from gateway.core.fields import Json
from gateway.demo.flights import Flights
from gateway.demo.replay import Given, Ledger
from gateway.demo.story import FAULTY, ROUTE, SOUND, Marks

THRESHOLD: Final = 0.5  # of the versions' targets
SILENCE_S: Final = 1.0  # from the commit of a rollback to the last answer of what it rolled back
SETTLE_S: Final = 40.0  # for the archive to take the segments that closed meanwhile


@dataclass(frozen=True, slots=True)
class Claim:
    """Something the demonstration says of the gateway, and whether it held."""

    sentence: str
    held: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Quality:
    """How a version's answers turned out.

    Attributes:
        live, shadowed: Predictions in the log by kind.
        judged: Live answers whose outcome is known; `wrong` of them.
    """

    version: str
    live: int
    shadowed: int
    judged: int
    wrong: int

    @property
    def accuracy(self) -> float:
        """The share of right answers among the judged, NaN without any."""
        return 1 - self.wrong / self.judged if self.judged else float("nan")


@dataclass(frozen=True, slots=True)
class LogView:
    """The prediction log, read as files.

    Attributes:
        live: prediction id → version, of records that answered a caller.
        repeats: Records whose prediction id another record has.
        shadows: Shadow records by version.
        copies: (prediction id of version 1's live answer, probability that version 2 gave in its shadow), where that ended well.
            After the promotion version 1 is in the shadow, which is not meant here.
        variants: (revision, hashed key) → the variants that were assigned.
    """

    live: dict[str, str]
    repeats: int
    shadows: Counter[str]
    copies: list[tuple[str, float]]
    truths: int
    variants: dict[tuple[int, str], set[str]]


@dataclass(frozen=True, slots=True)
class Pair:
    """Champion and shadow on the same flights: how many, and how many of them each got wrong."""

    flights: int
    champion_wrong: int
    shadow_wrong: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The end of the demonstration.

    Attributes:
        found_after_s: From the first answer of the faulty version to its rollback; None when there was none.
        bad_answers: Wrong answers of the faulty version, of `faulty_answers` judged.
    """

    qualities: Sequence[Quality]
    claims: Sequence[Claim]
    answers: int
    records: int
    found_after_s: float | None
    bad_answers: int
    faulty_answers: int
    evidence: Json
    parquet_files: int
    pair: Pair


def summarise(flights: Flights, ledger: Ledger, marks: Marks, admin: AdminClient, data_dir: Path) -> Summary:
    """Gather everything and check every claim. Waits up to `SETTLE_S` for the archive."""
    entries = list(admin.audit())
    conviction = _conviction(entries)
    log = read_log(data_dir / "log")
    faulty = [given for given in ledger.given if given.version == FAULTY]
    parquet = _settled(lambda: len(list((data_dir / "archive").rglob("*.parquet"))))
    qualities = [_quality(version, flights, ledger, log) for version in ("1", SOUND, FAULTY)]
    started_s = min((given.time_s for given in faulty), default=0.0)
    return Summary(
        qualities=qualities,
        claims=[
            *_traffic_claims(ledger, log),
            *_operator_claims(ledger, marks, log),
            *_monitor_claims(flights, ledger, marks, conviction, admin),
            *_keeping_claims(entries, ledger, log, parquet),
        ],
        answers=len(ledger.given),
        records=len(log.live),
        found_after_s=conviction.time_s - started_s if conviction and faulty else None,
        bad_answers=qualities[2].wrong,
        faulty_answers=qualities[2].judged,
        evidence=conviction.evidence if conviction else {},
        parquet_files=parquet,
        pair=_pair(flights, ledger, log),
    )


def read_log(directory: Path) -> LogView:
    """Read every segment; a heartbeat says nothing here."""
    view = LogView({}, 0, Counter(), [], 0, {})
    repeats = truths = 0
    for record in _records(directory):
        if record["type"] == "ground_truth":
            truths += 1
        elif record["type"] == "prediction" and record["kind"] == "shadow":
            view.shadows[record["version"]] += 1
            if record["version"] == SOUND and record["outcome"] == "ok":
                view.copies.append((record["shadow_of"], _probability(record["outputs"])))
        elif record["type"] == "prediction":
            repeats += record["prediction_id"] in view.live
            view.live[record["prediction_id"]] = record["version"]
            view.variants.setdefault((record["revision"], record["assignment_key"]), set()).add(record["assigned"])
    return replace(view, repeats=repeats, truths=truths)


def _probability(outputs: Sequence[dict[str, Any]]) -> float:
    return next(float(output["data"][1]) for output in outputs if output["name"] == "probabilities")


def _records(directory: Path) -> Iterator[dict[str, Any]]:
    for segment in sorted(directory.glob("*/*.jsonl")):
        for line in segment.read_bytes().splitlines():
            if line.strip():
                yield orjson.loads(line)


def _traffic_claims(ledger: Ledger, log: LogView) -> Iterator[Claim]:
    given = {one.prediction_id: one.version for one in ledger.given}
    yield Claim("every request was answered", ledger.failed == 0, "; ".join(ledger.failures[:3]) or f"{len(given):,} answers")
    missing = given.keys() - log.live.keys()
    extra = log.live.keys() - given.keys()
    yield Claim(
        "every answer is in the log exactly once, and nothing else is",
        not missing and not extra and not log.repeats and len(given) == len(ledger.given),
        f"{len(missing)} missing, {len(extra)} without an answer, {log.repeats} twice",
    )
    other = sum(log.live.get(id) != version for id, version in given.items())
    yield Claim("each record names the version that the caller was told", not other, f"{other} differ")
    torn = sum(len(variants) > 1 for variants in log.variants.values())
    yield Claim("an aircraft never changed variant between two route changes", not torn, f"{torn} of {len(log.variants):,} did")


def _operator_claims(ledger: Ledger, marks: Marks, log: LogView) -> Iterator[Claim]:
    early = _count(ledger.given, lambda one: one.version == SOUND and one.time_s < marks.sound_s - SILENCE_S)
    yield Claim(
        "version 2 ran in the shadow without answering anyone",
        log.shadows[SOUND] > 0 and marks.shadow_s > 0 and early == 0,
        f"{log.shadows[SOUND]:,} shadow records",
    )
    weights = {variant["version"]: variant["weight"] for variant in _variants(marks.route_before_faulty)}
    yield Claim("version 2 became champion", marks.sound.get("state") == "LIVE" and weights == {SOUND: 10_000}, f"{weights}")
    late = _count(ledger.given, lambda one: one.version == "1" and one.time_s > marks.promoted_s + SILENCE_S)
    yield Claim("version 1 answered nobody once version 2 was champion", marks.promoted_s > 0 and late == 0, f"{late} answers")


def _monitor_claims(
    flights: Flights, ledger: Ledger, marks: Marks, conviction: AuditEntry | None, admin: AdminClient
) -> Iterator[Claim]:
    state = str(marks.faulty.get("state", "never started"))
    reason = conviction.reason if conviction else f"the rollout is {state}"
    yield Claim("the monitor rolled version 3 back by itself", conviction is not None and state == "QUARANTINED", reason)
    evidence = orjson.dumps(conviction.evidence).decode() if conviction else ""
    yield Claim("its audit entry holds the evidence", len(evidence) > 2, f"{len(evidence):,} characters")
    rolled_back_s = conviction.time_s if conviction else 0.0
    last_s = max((one.time_s for one in ledger.given if one.version == FAULTY), default=0.0)
    yield Claim(
        f"no answer of version 3 came later than {SILENCE_S:.0f} s after its rollback",
        0 < last_s <= rolled_back_s + SILENCE_S,
        f"the last came {last_s - rolled_back_s:+.2f} s from it" if conviction else "it was not rolled back",
    )
    variants = {variant["version"]: variant["weight"] for variant in _variants(admin.route(ROUTE))}
    after = _count(ledger.given, lambda one: one.version == SOUND and one.time_s > rolled_back_s)
    yield Claim(
        "version 2 answered on alone", conviction is not None and variants == {SOUND: 10_000} and after > 0, f"{after:,} answers"
    )
    together = [
        one for one in ledger.given if flights.arrives[one.flight] and marks.faulty_s <= one.time_s <= max(last_s, rolled_back_s)
    ]
    error = {version: _share_wrong(flights, [one for one in together if one.version == version]) for version in (SOUND, FAULTY)}
    yield Claim(
        "version 3 really was worse than version 2 at the same time",
        error[FAULTY] > error[SOUND],
        f"{error[FAULTY]:.1%} wrong against {error[SOUND]:.1%}",
    )


def _keeping_claims(entries: Sequence[AuditEntry], ledger: Ledger, log: LogView, parquet: int) -> Iterator[Claim]:
    yield Claim(
        "every outcome that was posted is in the log", log.truths == ledger.truths > 0, f"{log.truths:,} of {ledger.truths:,}"
    )
    broken = first_broken(entries)
    yield Claim("the audit log's chain is whole", broken is None, f"{len(entries)} entries")
    yield Claim("closed segments are in the archive as Parquet", parquet > 0, f"{parquet} files")


def _conviction(entries: Sequence[AuditEntry]) -> AuditEntry | None:
    """Return the last entry in which the monitor itself rolled a version back."""
    return next(
        (entry for entry in reversed(entries) if entry.principal == "monitor" and entry.action == "rollout.rollback"), None
    )


def _quality(version: str, flights: Flights, ledger: Ledger, log: LogView) -> Quality:
    judged = [one for one in ledger.given if one.version == version and flights.arrives[one.flight]]
    return Quality(
        version=version,
        live=_count(log.live.values(), lambda logged: logged == version),
        shadowed=log.shadows[version],
        judged=len(judged),
        wrong=sum(_is_wrong(flights, one) for one in judged),
    )


def _pair(flights: Flights, ledger: Ledger, log: LogView) -> Pair:
    given = {one.prediction_id: one for one in ledger.given if flights.arrives[one.flight]}
    pairs = [(given[id], replace(given[id], probability=probability)) for id, probability in log.copies if id in given]
    champion, shadow = ([_is_wrong(flights, one) for one in side] for side in zip(*pairs, strict=True)) if pairs else ([], [])
    return Pair(len(pairs), sum(champion), sum(shadow))


def _share_wrong(flights: Flights, given: Sequence[Given]) -> float:
    return sum(_is_wrong(flights, one) for one in given) / len(given) if given else float("nan")


def _is_wrong(flights: Flights, given: Given) -> bool:
    return (given.probability >= THRESHOLD) != bool(flights.is_late[given.flight])


def _variants(route: Json) -> Sequence[dict[str, Any]]:
    variants = route.get("variants", [])
    assert isinstance(variants, list)
    return [variant for variant in variants if variant["weight"] > 0]


def _count(values: Any, claim: Callable[[Any], bool]) -> int:
    return sum(1 for value in values if claim(value))


def _settled(count: Callable[[], int]) -> int:
    """Return the count once it is not zero, or zero when it stayed so."""
    deadline_s = time.monotonic() + SETTLE_S
    while not (found := count()) and time.monotonic() < deadline_s:
        time.sleep(0.5)
    return found
