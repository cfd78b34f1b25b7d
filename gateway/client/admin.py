"""The admin API."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import httpx

from gateway.client.http import CONNECT_S, HttpClient, RequestFailed, checked, given, quoted, translated
from gateway.core.audit import AuditEntry
from gateway.core.fields import Fields, Json

PARQUET: Final = "application/vnd.apache.parquet"
NDJSON: Final = "application/x-ndjson"
ALL_RECORDS: Final = 100_000_000  # the most that one export may ask for
PAGE_ITEMS: Final = 100  # of one listing request
_UPLOAD_S: Final = 150.0  # above `control.validation_timeout_s` and the sending of a large artifact's last pieces


class AdminClient(HttpClient):
    """The admin API; `token` needs the scope of what is called."""

    def __init__(self, base_url: str, token: str) -> None:
        super().__init__(base_url, token)

    def is_ready(self) -> bool:
        """Return whether the gateway serves with the table it should serve."""
        return self._reply("/health/ready")

    def metrics(self) -> str:
        """Return every process's metrics in Prometheus' text form."""
        return self._send("GET", "/metrics").text

    def register(
        self, model: str, artifact_path: Path, metadata: Mapping[str, object] | None = None, reference_path: Path | None = None
    ) -> Json:
        """Upload, validate and register a version; return it.

        Args:
            metadata: `version`, `runtime`, `target`, `columns`, `lineage`, `description`, `preprocess`,
                `providers` and more; all optional.
            reference_path: The training sample: Parquet, CSV or JSON Lines, by suffix.
        """
        with contextlib.ExitStack() as open_files:
            parts: list[tuple[str, Any]] = [("metadata", (None, json.dumps(dict(metadata or {})), "application/json"))]
            for name, path in (("artifact", artifact_path), ("reference", reference_path)):
                if path is not None:
                    parts.append((name, (path.name, open_files.enter_context(path.open("rb")), "application/octet-stream")))
            return self._json(
                "POST",
                f"/api/v1/models/{quoted(model)}/versions",
                files=parts,
                timeout=httpx.Timeout(_UPLOAD_S, connect=CONNECT_S),
            )

    def models(self) -> Iterator[Json]:
        """Yield every model with its champion."""
        return self._listing("/api/v1/models", "models")

    def model(self, model: str) -> Json:
        """Return one model."""
        return self._json("GET", f"/api/v1/models/{quoted(model)}")

    def versions(self, model: str) -> Iterator[Json]:
        """Yield a model's versions in the order they were registered."""
        return self._listing(f"/api/v1/models/{quoted(model)}/versions", "versions")

    def version(self, model: str, version: str) -> Json:
        """Return one version: digest, signature, reference profile, lineage, state."""
        return self._json("GET", _version_path(model, version))

    def retire(self, model: str, version: str, *, reason: str) -> Json:
        """Take a version out of use; refused while a route needs it."""
        return self._json("POST", f"{_version_path(model, version)}/retire", json={"reason": reason})

    def routes(self) -> Iterator[Json]:
        """Yield every route."""
        return self._listing("/api/v1/routes", "routes")

    def route(self, route: str) -> Json:
        """Return one route's body with its revision."""
        return self._json("GET", _route_path(route))

    def put_route(self, route: str, body: Mapping[str, object], *, if_match: int, reason: str = "") -> Json:
        """Create (`if_match` 0) or replace a route; return its revision and the one that each worker runs.

        Returns when every worker answers with the new table or its time is up.
        """
        return self._json("PUT", _route_path(route), json=dict(body), headers=_if_match(if_match), params=given(reason=reason))

    def delete_route(self, route: str, *, if_match: int, reason: str = "") -> Json:
        """Remove a route; its model's champion answers under the model's name again."""
        return self._json("DELETE", _route_path(route), headers=_if_match(if_match), params=given(reason=reason))

    def rollback(self, route: str, *, reason: str) -> Json:
        """Put a route back to its last good table; an open rollout ends with it."""
        return self._json("POST", f"{_route_path(route)}/rollback", json={"reason": reason})

    def start_rollout(self, route: str, challenger: str, *, plan: Mapping[str, object] | None = None, reason: str = "") -> Json:
        """Start moving a route from its champion to a version; return the rollout."""
        body: Json = {"challenger": challenger, "plan": dict(plan or {}), "reason": reason}
        return self._json("POST", f"{_route_path(route)}/rollouts", json=body)

    def rollouts(self, route: str) -> Iterator[Json]:
        """Yield a route's rollouts, the newest first."""
        return self._listing(f"{_route_path(route)}/rollouts", "rollouts")

    def rollout(self, route: str, id: str) -> Json:
        """Return one rollout with its evidence."""
        return self._json("GET", f"{_route_path(route)}/rollouts/{quoted(id)}")

    def move_rollout(self, route: str, id: str, event: str, *, reason: str = "") -> Json:
        """Make an event happen to a rollout.

        Args:
            event: `advance`, `hold`, `resume`, `promote` or `rollback`.
        """
        return self._json("POST", f"{_route_path(route)}/rollouts/{quoted(id)}/{quoted(event)}", json={"reason": reason})

    def health(self, route: str) -> Json:
        """Return how a route is: its level, and each part's with the evidence."""
        return self._json("GET", f"{_route_path(route)}/health")

    def drift(self, route: str) -> Json:
        """Return the readings of a route's inputs against its reference."""
        return self._json("GET", f"{_route_path(route)}/drift")

    def quality(self, route: str) -> Json:
        """Return the realised metrics by version, with ground truth's coverage."""
        return self._json("GET", f"{_route_path(route)}/quality")

    def monitor(self) -> Json:
        """Return whether the monitor is well, its lag, what it could not judge, and its drills."""
        return self._json("GET", "/api/v1/monitor")

    def predictions(
        self, *, route: str = "", version: str = "", since: str = "", until: str = "", limit: int = PAGE_ITEMS
    ) -> Iterator[Json]:
        """Yield the newest matching records, the newest first, with their ground truth, as they arrive.

        Args:
            since, until: ISO 8601, or seconds since the epoch; since inclusive, until exclusive.
        """
        wanted = given(route=route, version=version, since=since, until=until, limit=str(limit))
        with (
            translated(str(self._http.base_url)),
            self._http.stream("GET", "/api/v1/predictions", params=wanted, headers={"Accept": NDJSON}) as response,
        ):
            checked(response)
            for line in response.iter_lines():
                yield json.loads(line)

    def prediction(self, prediction_id: str) -> Json:
        """Return one record with its ground truth."""
        return self._json("GET", f"/api/v1/predictions/{quoted(prediction_id)}")

    def ask(self, sql: str, *, limit: int = PAGE_ITEMS, is_archived_only: bool = False) -> Json:
        """Return the answer to a question in SQL over `predictions` and `ground_truth`: `columns`, `rows`, `is_cut`.

        Args:
            is_archived_only: Leave out the log's end, the last minutes, which has to be made ready first.
        """
        question = {"sql": sql, "limit": limit, "archived_only": is_archived_only}
        return self._json("POST", "/api/v1/predictions/query", json=question)

    def recompute(self, prediction_id: str) -> Json:
        """Run a logged prediction again; `is_equal` says whether every bit of the answer is the same."""
        return self._json("POST", f"/api/v1/predictions/{quoted(prediction_id)}/recompute")

    def export(
        self, to: Path, *, route: str = "", version: str = "", since: str = "", until: str = "", limit: int = ALL_RECORDS
    ) -> int:
        """Write the matching records to one Parquet file; return its bytes. `to` appears only when it is complete."""
        wanted = given(route=route, version=version, since=since, until=until, limit=str(limit))
        staged = to.with_name(f".{to.name}.part")
        try:
            with (
                translated(str(self._http.base_url)),
                staged.open("wb") as file,
                self._http.stream("GET", "/api/v1/predictions", params=wanted, headers={"Accept": PARQUET}) as response,
            ):
                checked(response)
                size_bytes = sum(file.write(piece) for piece in response.iter_bytes())
            staged.replace(to)
        finally:
            staged.unlink(missing_ok=True)
        return size_bytes

    def audit(self) -> Iterator[AuditEntry]:
        """Yield every audit entry, the oldest first, as the chain's check needs them."""
        return map(_audit_entry, self._listing("/api/v1/audit", "entries"))

    def verify_audit(self) -> Json:
        """Return whether the gateway finds its audit log whole, and which of the prediction log's anchors it contradicts."""
        return self._json("GET", "/api/v1/audit/verify")

    def latest_audit(self, limit: int = 20) -> Sequence[Json]:
        """Return the last entries, the newest first."""
        return _items(self._json("GET", "/api/v1/audit", params={"limit": str(limit), "order": "newest"}), "entries")

    def audit_entry(self, seq: int) -> Json | None:
        """Return one audit entry by its number, or None where there is none."""
        query = {"after": str(seq - 1), "limit": "1", "order": "oldest"}
        found = _items(self._json("GET", "/api/v1/audit", params=query), "entries")
        return next((one for one in found if one.get("seq") == seq), None)

    def quarantines(self) -> Iterator[Json]:
        """Yield every digest ever set under quarantine, with its strikes."""
        return self._listing("/api/v1/quarantine", "quarantine")

    def release(self, digest: str, *, reason: str) -> Json:
        """Release a digest from quarantine before its time."""
        return self._json("DELETE", f"/api/v1/quarantine/{quoted(digest)}", params={"reason": reason})

    def automation(self) -> Json:
        """Return whether the gateway may change routes by itself."""
        return self._json("GET", "/api/v1/automation")

    def set_automation(self, *, is_on: bool, reason: str) -> Json:
        """Allow or stop all automatic changes."""
        return self._json("PUT", "/api/v1/automation", json={"is_on": is_on, "reason": reason})

    def notices(self) -> Json:
        """Return the channels, what waits for them, and the conditions that last."""
        return self._json("GET", "/api/v1/notices")

    def test_channel(self, channel: str) -> Json:
        """Send a test through one channel."""
        return self._json("POST", f"/api/v1/notices/{quoted(channel)}/test")

    def keys(self) -> Iterator[Json]:
        """Yield every key: id, name, scopes; never a token."""
        return self._listing("/api/v1/keys", "keys")

    def create_key(self, name: str, scopes: Sequence[str], *, limits: Mapping[str, float] | None = None) -> Json:
        """Create a key; the reply holds its `token`, this once.

        Args:
            limits: `requests_per_s`, `burst`, `rows_per_day` of its predictions; what is missing is without limit.
        """
        body = {"name": name, "scopes": list(scopes)}
        return self._json("POST", "/api/v1/keys", json=body if limits is None else {**body, "limits": dict(limits)})

    def revoke_key(self, id: str) -> Json:
        """Revoke a key; its token is refused from now on."""
        return self._json("DELETE", f"/api/v1/keys/{quoted(id)}")

    def _listing(self, path: str, name: str) -> Iterator[Json]:
        after = ""
        while True:
            page = self._json("GET", path, params=given(limit=str(PAGE_ITEMS), after=after))
            yield from _items(page, name)
            if page.get("next") in (None, ""):
                return
            after = str(page["next"])


def _items(page: Json, name: str) -> Sequence[Json]:
    items = page.get(name)
    if not isinstance(items, list):
        raise RequestFailed(200, f"the listing has no {name!r}; is the gateway of another version?")
    return cast("list[Json]", items)


def _audit_entry(body: Json) -> AuditEntry:
    fields = Fields(body, "audit entry")
    return AuditEntry(
        seq=fields.integer("seq", 0, 1 << 62),
        time_s=cast("float", fields.value("time_s")),  # as it stands: the hash covers its very form
        principal=fields.text("principal", ""),
        action=fields.text("action", ""),
        subject=fields.text("subject", ""),
        reason=fields.text("reason", ""),
        decision_id=fields.text("decision_id", ""),
        before=cast("Json", fields.value("before")),
        after=cast("Json", fields.value("after")),
        evidence=cast("Json", fields.value("evidence")),
        previous=fields.text("previous", ""),
        hash=fields.text("hash", ""),
    )


def _version_path(model: str, version: str) -> str:
    return f"/api/v1/models/{quoted(model)}/versions/{quoted(version)}"


def _route_path(route: str) -> str:
    return f"/api/v1/routes/{quoted(route)}"


def _if_match(revision: int) -> dict[str, str]:
    return {"If-Match": str(revision)}
