"""Another version over logged inputs: how far its answers are from those that were given, by day.

Records that ran in batches of one size are put together again at their recorded places, so that a version is asked for its
answer to the very batch, and the one that answered gives every bit again. Memory is bounded by the batches that are open.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from gateway.core.errors import ModelFault
from gateway.core.fields import Json
from gateway.core.models import Version
from gateway.core.recompute import difference, joined, own_rows, rows_of, said
from gateway.core.records import Kind, Outcome, PredictionRecord
from gateway.core.tensors import NUMPY_DTYPES, Array
from gateway.ports.archive import Filter
from gateway.ports.runtimes import Instance
from gateway.replay.past import Past, Progress, unheard

OPEN_MAX: Final = 64  # batches of different sizes that wait for their records; serving joins up to 64 rows by default


@dataclass(slots=True)
class Compared:
    """What came of the records of one day, or of all.

    Attributes:
        equal: To the bit, in every output.
        within: No number further off than the tolerance, and no other element different; `equal` ones too.
        failed: The version raised or answered in another form.
        unfit: Inputs that do not fit its signature, or that the log does not have as they came.
        rows_decided, rows_changed: Rows with a decision in both answers, and those in which it differs.
        elements, total, largest: Of numbers in answers that were compared: how many, and their absolute differences.
    """

    predictions: int = 0
    equal: int = 0
    within: int = 0
    failed: int = 0
    unfit: int = 0
    rows_decided: int = 0
    rows_changed: int = 0
    elements: int = 0
    total: float = 0.0
    largest: float = 0.0

    def add(self, other: Compared) -> None:
        """Take another's counts."""
        for name in self.__slots__:
            mine, its = getattr(self, name), getattr(other, name)
            setattr(self, name, max(mine, its) if name == "largest" else mine + its)

    def body(self) -> Json:
        """Return counts and shares; what was not compared has none."""
        compared = self.predictions - self.failed - self.unfit
        return {
            "predictions": self.predictions,
            "compared": compared,
            "equal_share": _share(self.equal, compared),
            "within_share": _share(self.within, compared),
            "failed": self.failed,
            "unfit": self.unfit,
            "decisions": self.rows_decided,
            "decisions_changed": self.rows_changed,
            "mean_difference": None if not self.elements else _plain(self.total / self.elements),
            "largest_difference": None if not self.elements else _plain(self.largest),
        }


@dataclass(slots=True)
class VersionReport:
    """A version's replay; `days` by UTC date."""

    version: Version
    tolerance: float
    days: dict[str, Compared] = field(default_factory=dict)

    def body(self) -> Json:
        """Return the report as it is printed."""
        whole = Compared()
        for day in self.days.values():
            whole.add(day)
        return {
            "model": self.version.model,
            "version": self.version.version,
            "digest": self.version.digest,
            "tolerance": self.tolerance,
            **whole.body(),
            "days": [{"date": date, **day.body()} for date, day in sorted(self.days.items())],
        }


def replay_version(
    past: Past, version: Version, wanted: Filter, *, tolerance: float, progress: Progress = unheard
) -> VersionReport:
    """Run a version over the matching live predictions that were answered, and compare.

    Raises:
        ArtifactCorrupt, LoadFailed: the version cannot be loaded.
        ArchiveFailed, LogFailed: the past cannot be read.
    """
    instance = past.runtimes[version.runtime].load(past.artifacts.path(version.digest), version)
    report = VersionReport(version, tolerance)
    try:
        for batch in _batches(_answered(past, wanted, progress, report), is_batched=version.signature.is_batched):
            _compare(instance, batch, report)
    finally:
        instance.close()
    return report


def _answered(past: Past, wanted: Filter, progress: Progress, report: VersionReport) -> Iterator[PredictionRecord]:
    for *_, record in past.records(wanted, progress):
        if not isinstance(record, PredictionRecord) or record.kind is not Kind.LIVE or record.outcome is not Outcome.OK:
            continue
        if _fits(report.version, record):
            yield record
        else:
            _day(report, record).add(Compared(predictions=1, unfit=1))


def _fits(version: Version, record: PredictionRecord) -> bool:
    sent = {tensor.name: tensor for tensor in record.inputs}
    is_whole = not record.dropped and not record.hashed
    return (
        is_whole
        and len(sent) == len(version.signature.inputs)
        and all(
            spec.name in sent and sent[spec.name].datatype is spec.datatype and spec.accepts(sent[spec.name].data.shape)
            for spec in version.signature.inputs
        )
    )


def _batches(records: Iterator[PredictionRecord], *, is_batched: bool) -> Iterator[list[PredictionRecord]]:
    """Yield records that can share a run: of one batch size and form, each behind the one before it."""
    open_: dict[object, list[PredictionRecord]] = {}
    for record in records:
        if not is_batched or record.batch_rows <= rows_of(record):
            yield [record]
            continue
        form = (record.batch_rows, *((tensor.name, tensor.data.shape[1:]) for tensor in record.inputs))
        batch = open_.pop(form, [])
        if batch and batch[-1].batch_position + rows_of(batch[-1]) > record.batch_position:
            yield batch
            batch = []
        batch.append(record)
        open_[form] = batch
        if len(open_) > OPEN_MAX:
            yield open_.pop(next(iter(open_)))
    yield from open_.values()


def _compare(instance: Instance, batch: list[PredictionRecord], report: VersionReport) -> None:
    try:
        outputs = instance.predict(joined(batch))
    except ModelFault:
        if len(batch) > 1:
            for record in batch:
                _compare(instance, [record], report)
            return
        outputs = {}
    for record in batch:
        _day(report, record).add(_compared(outputs, record, report) if outputs else Compared(predictions=1, failed=1))


def _compared(outputs: dict[str, Array], record: PredictionRecord, report: VersionReport) -> Compared:
    version = report.version
    again = own_rows(outputs, record, is_batched=version.signature.is_batched)
    if any(spec.name not in again or again[spec.name].dtype != NUMPY_DTYPES[spec.datatype] for spec in version.signature.outputs):
        return Compared(predictions=1, failed=1)
    found = [difference(tensor, again.get(tensor.name)) for tensor in record.outputs]
    result = Compared(predictions=1, equal=int(all(one.unequal == 0 for one in found)))
    result.within = int(all(one.unequal == 0 or (one.largest is not None and one.largest <= report.tolerance) for one in found))
    for one in found:
        if one.largest is not None and one.total is not None:
            result.elements += one.elements
            result.total += one.total
            result.largest = max(result.largest, one.largest)
    was = said(version.target, {tensor.name: tensor.data for tensor in record.outputs})
    now = said(version.target, again)
    if was is not None and now is not None and was.shape == now.shape:
        result.rows_decided = len(was)
        result.rows_changed = int((was != now).reshape(len(was), -1).any(axis=1).sum())
    return result


def _day(report: VersionReport, record: PredictionRecord) -> Compared:
    return report.days.setdefault(time.strftime("%Y-%m-%d", time.gmtime(record.time_s)), Compared())


def _share(count: int, of: int) -> float | None:
    return count / of if of else None


def _plain(number: float) -> float | str:
    return number if np.isfinite(number) else str(number)
