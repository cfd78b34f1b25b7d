"""Numbers, shares and times as a person reads them; what is not known is a dash."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

UNKNOWN: Final = "–"
SHARE_MIN: Final = 0.01  # percent; below it nobody reads digits, and a table has no room for them
TEXT_MAX: Final = 300  # of what a person wrote: enough for a reason, too little to hide the page


def number(value: object, form: str = ".3g") -> str:
    """Return a number in a form, or a dash where there is none."""
    return format(value, form) if is_number(value) else UNKNOWN


def share(value: object) -> str:
    """Return a share in [0, 1] as a percentage."""
    if not is_number(value):
        return UNKNOWN
    percent = 100.0 * float(str(value))
    if 0.0 < percent < SHARE_MIN:
        return f"<{SHARE_MIN:g} %"
    return f"{percent:.2g} %" if 0.0 < abs(percent) < 1.0 else f"{percent:.4g} %"


def moment(seconds: object) -> str:
    """Return seconds since the epoch as UTC, to the second; nothing for what is no time."""
    if not is_number(seconds) or not 0.0 < float(str(seconds)) < 1e11:
        return ""
    return datetime.fromtimestamp(float(str(seconds)), UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def shortened(text: object) -> str:
    """Return a text of at most `TEXT_MAX` characters."""
    whole = "" if text is None else str(text)
    return whole if len(whole) <= TEXT_MAX else whole[: TEXT_MAX - 1] + "…"


def is_number(value: object) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def found(body: Mapping[str, object], name: str) -> float | None:
    """Return a field that is a finite number, or None."""
    value = body.get(name)
    return float(value) if isinstance(value, int | float) and is_number(value) else None
