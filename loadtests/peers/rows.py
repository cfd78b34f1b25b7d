"""The rows of the comparison, each with what the gateway has to reach: how many times a peer's requests a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from loadtests.peers.subjects import Subject

RUNTIME, PREDICT = "runtime", "predict"  # what is measured without a server
_BATCHED = 1.4  # times the best peer, so times each of them


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that is measured.

    Attributes:
        rows: In each request.
        targets: By peer, the least ratio of the gateway's requests a second to the peer's; the other peers are shown without.
        only: The peers that are compared; all that serve the subject when empty.
    """

    name: str
    title: str
    subject: Subject
    connections: int
    rows: int = 1
    targets: Mapping[str, float] = field(default_factory=dict)
    only: frozenset[str] = frozenset()


ROWS = (
    Row(
        "small-64",
        "Small model, one row, 64 callers",
        Subject.SMALL,
        64,
        targets={
            "starlette": 1.5,
            "triton": 4,
            "mlserver": 6,
            "kserve": 6,
            "fastapi": 5,
            "fastapi-async": 3,
            "litserve": 12,
            "bentoml": 20,
            "ray": 20,
        },
    ),
    Row("small-1", "Small model, one row, 1 caller", Subject.SMALL, 1, targets={"starlette": 0.85}),
    Row("rows-32", "Small model, 32 rows as JSON, 64 callers", Subject.SMALL, 64, 32, only=frozenset({"starlette"})),
    Row(
        "large-64",
        "7 ms model, one row, 64 callers, batching",
        Subject.LARGE,
        64,
        targets=dict.fromkeys(
            ("starlette", "triton", "mlserver", "kserve", "fastapi", "fastapi-async", "litserve", "bentoml", "ray"), _BATCHED
        ),
    ),
    Row("pickled-1", "Pickled boosted trees, one row, 1 caller", Subject.PICKLED, 1),
    Row("pickled-16", "Pickled boosted trees, one row, 16 callers", Subject.PICKLED, 16, targets={"mlserver": 2}),
    Row("pipeline-1", "Pickled scaler and regression, one row, 1 caller", Subject.PIPELINE, 1),
    Row("pipeline-16", "Pickled scaler and regression, one row, 16 callers", Subject.PIPELINE, 16, targets={"mlserver": 2}),
)
