"""Looks for predictions in the archive, because ground truth came for them when memory no longer had them.

When and for which is the fold's to say, by the log alone, so that a monitor that begins again looks for the same at the same
place. Bounded: a batch at a time, and what is not found is tried again later. Never decides anything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gateway.core.partitions import Owns
from gateway.core.records import PredictionRecord
from gateway.history import Recalled
from gateway.monitor.fold import Fold

Recall = Callable[[Sequence[str]], Mapping[str, Recalled]]


def look_up(fold: Fold, recall: Recall, prepare: Callable[[PredictionRecord], None], owns: Owns) -> None:
    """Recall what the fold seeks, and let it go on; a prediction on a route that is not folded here is left to who does.

    Args:
        prepare: Lets the fold learn of what a record speaks, before it is taken.

    Raises:
        ArchiveFailed, LogFailed: nothing was recalled; it is sought again.
        StoreFailed: what was not recalled yet is sought again.
    """
    found = recall(fold.sought)
    while fold.sought:
        one = found.get(fold.sought[-1])
        if one is None:
            fold.truth.miss(fold.sought[-1], fold.now_s)
        elif not owns(one.record.route):
            fold.truth.leave(fold.sought[-1])
        else:
            prepare(one.record)
            fold.recall(one.record, one.ground_truth)
        fold.sought.pop()
