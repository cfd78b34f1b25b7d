"""Evidence that a challenger is worse than the champion it runs beside, valid whenever one looks.

The unit is the assignment key, and the only chance that is relied on is the split's own: a hash gives each key to the challenger
with the planned share, whatever the key is like and whatever it will meet. A key counts once in an epoch, with its first outcome.
So nothing is assumed of the outcomes: they may depend on the key, on each other and on the hour.
`docs/decisions/0002-a-key-counts-once-an-epoch.md` has the argument. Pure; natural logarithms throughout.
"""

from gateway.core.evidence.bets import factors, log_peak, log_weight
from gateway.core.evidence.epochs import Evidence, Outcomes, Trial
from gateway.core.evidence.plan import COUNT_MAX, Direction, EvidenceKind, EvidencePlan, EvidenceReading, Outcome, Side
from gateway.core.evidence.share import ShareReading, ShareTest

__all__ = [
    "COUNT_MAX",
    "Direction",
    "Evidence",
    "EvidenceKind",
    "EvidencePlan",
    "EvidenceReading",
    "Outcome",
    "Outcomes",
    "ShareReading",
    "ShareTest",
    "Side",
    "Trial",
    "factors",
    "log_peak",
    "log_weight",
]
