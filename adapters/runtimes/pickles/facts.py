"""What an unpickled model says of itself; runs where it was unpickled."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

NAMES_MAX = 10_000  # of features or classes that are passed on
_FAMILIES = ("sklearn", "lightgbm", "xgboost")


def facts_of(model: Any) -> dict[str, Any]:
    """Return what a model says of itself, none of it taken on trust by the reader."""
    kind = type(model)
    family = kind.__module__.split(".")[0]
    library = sys.modules.get(family)
    version = getattr(library, "__version__", "")
    return {
        "class": name_of(kind),
        "family": family if family in _FAMILIES else "",
        "library": f"{family} {version}" if version else f"Python {platform.python_version()}",
        "methods": [name for name in ("predict", "predict_proba") if callable(_had(model, name))],
        "features": _count(_had(model, "n_features_in_")),
        "feature_names": _names(_had(model, "feature_names_in_")),
        "classes": _names(_had(model, "classes_")),
    }


def _had(model: Any, name: str) -> Any:
    """Return an attribute, or None where there is none; one that raises says nothing, and what it should say is asked for."""
    try:
        return getattr(model, name, None)
    except Exception:  # noqa: BLE001 - a property of foreign code
        return None


def _count(value: Any) -> int:
    try:
        return int(value or 0)
    except (TypeError, ValueError):
        return 0


def _names(value: Any) -> list[str]:
    """Return a list as text, or none where it is no list, too long, or of what cannot be said as text."""
    if value is None:
        return []
    try:
        found = np.asarray(value)
        return [str(item) for item in found.tolist()] if found.ndim == 1 and len(found) <= NAMES_MAX else []
    except Exception:  # noqa: BLE001 - whatever foreign code keeps there
        return []


def name_of(kind: type) -> str:
    """Return a class's name with its module, cut."""
    return f"{kind.__module__}.{kind.__qualname__}"[:200]
