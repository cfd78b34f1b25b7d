"""The prediction API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

from gateway.client.http import HttpClient, object_of, quoted
from gateway.core.fields import Json


@dataclass(frozen=True, slots=True)
class Answer:
    """One prediction's answer.

    Attributes:
        prediction_id: Names its record in the log; ground truth is joined by it.
        variant, version: What really answered.
        body: As received: `predictions`, or the protocol's `outputs`.
    """

    prediction_id: str
    variant: str
    version: str
    body: Json


class PredictionClient(HttpClient):
    """The prediction API. Predicting needs no token; posting ground truth needs one with that scope."""

    def __init__(self, base_url: str, token: str | None = None) -> None:
        super().__init__(base_url, token)

    def is_ready(self) -> bool:
        """Return whether the worker that replied may take requests."""
        return self._reply("/v2/health/ready")

    def predict(self, route: str, instances: Sequence[object], *, key: str = "") -> Answer:
        """Return the answer for rows, each a list of numbers or an object by column.

        Args:
            key: The assignment key, sent as the header `Gateway-Assignment-Key`.
        """
        path = f"/v1/models/{quoted(route)}:predict"
        return _answer(self._send("POST", path, json={"instances": list(instances)}, headers=_keyed(key)))

    def infer(self, route: str, request: Mapping[str, object], *, key: str = "", version: str = "") -> Answer:
        """Return the answer to a request body of the Open Inference Protocol.

        Args:
            key: As for `predict`.
            version: Pins a version and bypasses the split.
        """
        pinned = f"/versions/{quoted(version)}" if version else ""
        path = f"/v2/models/{quoted(route)}{pinned}/infer"
        return _answer(self._send("POST", path, json=dict(request), headers=_keyed(key)))

    def metadata(self, route: str) -> Json:
        """Return the protocol's model metadata: versions, inputs, outputs."""
        return self._json("GET", f"/v2/models/{quoted(route)}")

    def ground_truth(self, records: Sequence[Mapping[str, object]]) -> Json:
        """Post true outcomes: `prediction_id`, `value`, and optionally `row` and `observed_at`. Logged when it returns."""
        return self._json("POST", "/api/v1/ground-truth", json={"records": [dict(record) for record in records]})


def _answer(response: httpx.Response) -> Answer:
    headers = response.headers
    return Answer(
        prediction_id=headers.get("gateway-prediction-id", ""),
        variant=headers.get("gateway-variant", ""),
        version=headers.get("gateway-version", ""),
        body=object_of(response),
    )


def _keyed(key: str) -> dict[str, str]:
    return {"Gateway-Assignment-Key": key} if key else {}
