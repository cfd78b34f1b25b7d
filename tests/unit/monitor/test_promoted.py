"""A promoted version goes back where the version before does better on the same requests, not where the world got worse."""

from __future__ import annotations

import pytest

from loadtests.detection.promoted import KINDS, promoted_version


@pytest.mark.parametrize(("better", "is_to_blame"), [(0.0, False), (1.0, True)])
def test_promoted_version_goes_back_only_where_it_is_to_blame(better, is_to_blame):
    """Its own past speaks against it in either world; what both answer to the same requests decides, within the first hour."""
    kinds = KINDS[::2] if is_to_blame else KINDS[1::2]
    cooled = [promoted_version(kind, 1, better) for kind in kinds]
    assert all(one.is_alarmed for one in cooled)
    assert [one.is_rolled_back for one in cooled] == [is_to_blame] * len(cooled)
    assert all("version 1 in the shadow does better" in one.reason for one in cooled if is_to_blame)
