"""The admin and the prediction API as a Python client. The command line goes through it, and so may any program.

Blocking, over HTTP. Bodies are the documented JSON objects, passed through as they are, so that a field the gateway adds is not
lost here. Every wait is bounded. A refusal raises `RequestFailed` with the gateway's own words; no reply raises `NotReachable`.
It decides nothing and never retries: what may be repeated, the caller knows.
"""

from gateway.client.admin import ALL_RECORDS, AdminClient
from gateway.client.http import NotReachable, RequestFailed
from gateway.client.predictions import Answer, PredictionClient

__all__ = ["ALL_RECORDS", "AdminClient", "Answer", "NotReachable", "PredictionClient", "RequestFailed"]
