"""A reference profile as the registry stores it, and read back to the bit."""

from __future__ import annotations

from typing import Final, cast

from gateway.core.fields import Fields, Json
from gateway.core.models import COLUMNS_MAX, ColumnKind
from gateway.core.profiles import CATEGORIES_MAX, CELLS, FLOAT_MAX, QUANTILES, FeatureProfile, ReferenceProfile

FORMAT: Final = 3


def profile_body(profile: ReferenceProfile) -> Json:
    """Return a profile as the registry stores it; `profile_from_body` reads it back, to the bit."""
    return {
        "format": FORMAT,
        "rows": profile.rows,
        "features": [
            {
                "name": feature.name,
                "kind": feature.kind.value,
                "rates": list(feature.rates),
                "quantiles": list(feature.quantiles),
                "edges": list(feature.edges),
                "categories": list(feature.categories),
                "place": list(feature.place),
                "spread": list(feature.spread),
                "place_levels": list(feature.place_levels),
                "spread_levels": list(feature.spread_levels),
                "correlation": feature.correlation,
                "swing": feature.swing,
            }
            for feature in profile.features
        ],
    }


def profile_from_body(body: object) -> ReferenceProfile:
    """Read what `profile_body` wrote.

    Raises:
        MalformedRequest: it is not such a body.
    """
    fields = Fields(body, "profile")
    fields.integer("format", FORMAT, FORMAT)
    features = tuple(_feature_from_body(item) for item in fields.items("features", COLUMNS_MAX))
    return ReferenceProfile(rows=fields.integer("rows", 1, 1 << 62), features=features)


def _feature_from_body(body: object) -> FeatureProfile:
    fields = Fields(body, "profile.features")
    return FeatureProfile(
        name=fields.text("name"),
        kind=fields.choice("kind", ColumnKind),
        rates=_numbers(fields, "rates", CATEGORIES_MAX + CELLS),
        quantiles=_numbers(fields, "quantiles", QUANTILES),
        edges=_numbers(fields, "edges", CELLS),
        categories=tuple(str(item) for item in fields.items("categories", CATEGORIES_MAX)),
        place=_pair(fields, "place"),
        spread=_pair(fields, "spread"),
        place_levels=_pair(fields, "place_levels"),
        spread_levels=_pair(fields, "spread_levels"),
        correlation=fields.number("correlation", 0.0, 1.0),
        swing=fields.number("swing", 0.0, 1.0, 0.0),
    )


def _pair(fields: Fields, name: str) -> tuple[float, float]:
    mean, deviation = _numbers(fields, name, 2)
    return mean, deviation


def _numbers(fields: Fields, name: str, count_max: int) -> tuple[float, ...]:
    items = fields.items(name, count_max)
    if set(map(type, items)) <= {float} and sum(map(abs, cast("list[float]", items))) <= FLOAT_MAX:  # of NaN it is not
        return tuple(cast("list[float]", items))  # one by one, three million of a thousand routes would take a second
    return tuple(Fields({name: item}, "profile.features").number(name, -FLOAT_MAX, FLOAT_MAX) for item in items)
