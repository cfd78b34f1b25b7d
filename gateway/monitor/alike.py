"""What records of a run have in common, and what they add to a version's tally. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.core.estimates import LossEstimate
from gateway.core.models import Version
from gateway.core.records import Kind, Outcome, PredictionRecord
from gateway.core.tensors import Datatype, Shape, Tensor
from gateway.core.windows import Window, merge
from gateway.monitor.state import RouteState
from gateway.monitor.tally import WINDOW_S
from gateway.monitor.truth import Place


@dataclass(slots=True)
class Counted:
    """What a run adds to the tally of one version.

    Attributes:
        key: Variant and version.
        last_at: Which record of the run touched it last.
        window: Of the run alone.
        estimate: As it becomes with the run.
    """

    key: tuple[str, str]
    version: Version | None
    estimate: LossEstimate
    last_at: int = 0
    window: Window = field(default_factory=Window)
    rows: int = 0
    delays: list[float] = field(default_factory=list)

    def has_any(self) -> bool:
        """Return whether there is anything."""
        return self.window.predictions + self.window.truths > 0

    def take(self, state: RouteState) -> None:
        """Let the tally have it."""
        tally = state.tally(*self.key, Kind.LIVE)
        tally.windows[int(self.window.until_s // WINDOW_S)] = merge(tally.window(self.window.until_s), self.window)
        tally.estimate = self.estimate
        tally.rows += self.rows
        tally.rows_known += len(self.delays)
        for delay_s in self.delays:
            tally.delays.count(delay_s)


class Form(NamedTuple):
    """What tensors that are alike have in common."""

    name: str
    datatype: Datatype
    shape: Shape

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor is of this form."""
        return tensor.data.shape == self.shape and tensor.datatype is self.datatype and tensor.name == self.name


@dataclass(slots=True)
class Lane:
    """One variant's answers at one revision: what all of them have in common.

    Attributes:
        share: The challenger's.
        inputs: How many, and of the first its form.
        place: None where no ground truth can be compared with them.
        is_live: Whether the version is in charge.
        events: That each is worth, see `core/sampling.py`.
    """

    revision: int
    model: str
    version: str
    share: float
    inputs: int
    input: Form
    output: Form
    counted: Counted
    place: Place | None
    is_evidence: bool
    is_challenger: bool
    is_live: bool
    events: int


def is_plain(record: PredictionRecord, lane: Lane, time_s: float) -> bool:
    """Return whether a record is a sound answer of one row, like the lane's others, by the variant that the split chose."""
    if record.outcome is not Outcome.OK or record.kind is not Kind.LIVE or len(record.attempts) != 1:
        return False
    own, variant, version = record.attempts[0], record.variant, lane.version
    return (
        own.outcome is Outcome.OK
        and own.variant == variant == record.assigned
        and own.version == version == record.version
        and record.model == lane.model
        and record.time_s == time_s
        and not (record.resting or record.dropped or record.hashed)
        and len(record.inputs) == lane.inputs
        and len(record.outputs) == 1
        and lane.input.has(record.inputs[0])
        and lane.output.has(record.outputs[0])
    )
