"""Which refusals are failures: those for which neither the caller nor the load is to blame, by route."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.errors import OWN_REFUSALS, GatewayError


def refused(kinds: Iterable[type[GatewayError]] = OWN_REFUSALS, *, chosen: str = 'route!=""') -> str:
    """Return the selector of requests for a live prediction that were refused with one of these errors."""
    reasons = "|".join(kind.__name__ for kind in kinds)
    return f'gateway_rejected_requests_total{{{chosen}, reason=~"{reasons}"}}'
