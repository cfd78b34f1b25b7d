"""What a model says of itself is taken down whatever it answers."""

from __future__ import annotations

import pytest

from adapters.runtimes.pickles.facts import facts_of


class Unsayable:
    """What cannot be said as text."""

    def __str__(self) -> str:
        raise RuntimeError("not today")


class Foreign:
    """A model one of whose attributes raises."""

    n_features_in_ = 3

    def __init__(self, labels: object) -> None:
        self.classes_ = labels

    @property
    def feature_names_in_(self) -> list[str]:
        """Raise."""
        raise RuntimeError("not today")

    def predict(self, rows: object) -> object:
        """Return what came."""
        return rows


@pytest.mark.parametrize(
    ("labels", "classes"), [(["no", "yes"], ["no", "yes"]), ([Unsayable()], []), ([["no"], ["yes"]], []), (None, [])]
)
def test_attribute_that_raises_leaves_the_other_facts(labels, classes):
    """What raises or is no list of texts counts as not said; everything else is."""
    facts = facts_of(Foreign(labels))

    assert (facts["features"], facts["feature_names"], facts["methods"]) == (3, [], ["predict"])
    assert facts["classes"] == classes
