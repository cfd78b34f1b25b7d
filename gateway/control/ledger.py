"""The audit log, keys, quarantine and the switch of automation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from gateway.control.auth import all_keys, new_key
from gateway.control.calls import Answer, Call, Control, page_of
from gateway.control.monitored import fleet, picture
from gateway.core.access import OWN_NAMES, Key, Scope, key_body, limits_from_body
from gateway.core.audit import FIRST_HASH, AuditEntry, entry_body, first_broken, lost_anchors
from gateway.core.changes import Automation, Change, DropKey, PutKey, Quarantine, quarantine_body
from gateway.core.errors import Conflict, MalformedRequest, UnknownSubject
from gateway.core.fields import Json
from gateway.history import anchors

LOST_MAX: Final = 20  # anchors that are shown; one is enough to know
_PAGE: Final = 1_000


def list_audit(control: Control, call: Call) -> Answer:
    """Return one page of audit entries, the oldest or the newest first."""
    order = call.asked("order", str)
    if order not in {"oldest", "newest"}:
        raise MalformedRequest("query.order: expected oldest or newest")
    limit = call.asked("limit", int)
    entries = control.registry.audit(call.asked("after", int), limit + 1, newest_first=order == "newest")
    return page_of("entries", entries, limit, show=audit_body, key=lambda entry: entry.seq)


def verify_audit(control: Control, _: Call) -> Answer:
    """Walk the whole chain, and look for the entries that the prediction log says were once its newest."""
    anchored = anchors(archive=control.archive, log=control.log)  # first: what they name was in the chain before it is walked
    hashes: dict[int, str] = {anchor.seq: "" for anchor in anchored}
    last: list[AuditEntry] = []
    broken = first_broken(_walked(control, last, hashes))
    count, head = (last[0].seq, last[0].hash) if last else (0, FIRST_HASH)
    lost = lost_anchors(anchored, hashes) if broken is None else []
    return Answer(
        {
            "is_intact": broken is None and not lost,
            "first_broken": broken,
            "entry_count": count,
            "head": head,
            "anchors": {
                "count": len(anchored),
                "newest_seq": max((anchor.seq for anchor in anchored), default=0),
                "oldest_s": min((anchor.time_s for anchor in anchored), default=None),
                "lost_count": len(lost),
                "lost": [{"seq": one.seq, "hash": one.hash, "time_s": one.time_s} for one in lost[:LOST_MAX]],
            },
        }
    )


def audit_body(entry: AuditEntry) -> Json:
    """Return an entry as it is shown: what is hashed, and the hash."""
    return {**entry_body(entry), "hash": entry.hash}


def list_keys(control: Control, call: Call) -> Answer:
    """Return one page of keys; never a token."""
    limit = call.asked("limit", int)
    keys = control.registry.keys(call.asked("after", str), limit + 1)
    return page_of("keys", keys, limit, show=key_body, key=lambda key: key.id)


def create_key(control: Control, call: Call) -> Answer:
    """Create a key; its token is in this answer and nowhere else."""
    fields = call.fields("body")
    name = fields.name("name")
    scopes = frozenset(_scope(item) for item in fields.items("scopes", len(Scope)))
    limits = limits_from_body(fields.value("limits"), "body.limits")
    fields.done()
    if name in OWN_NAMES:
        raise MalformedRequest(f"body.name: {name!r} is a name of the gateway's own in the audit log", hint="choose another name")
    if not scopes:
        raise MalformedRequest("body.scopes: expected at least one of " + ", ".join(scope.value for scope in Scope))
    key, token = new_key(name, scopes, limits=limits, clock=control.clock)
    control.registry.commit(Change(call.principal.name, "key.create", f"key:{key.id}", "", (PutKey(key),)))
    return Answer({**key_body(key), "token": token}, 201, {"Location": f"/api/v1/keys/{key.id}"})


def revoke_key(control: Control, call: Call) -> Answer:
    """Revoke a key; its token stops working with this answer."""
    with control.last_look:
        keys = {key.id: key for key in all_keys(control.registry)}
        key = keys.get(call.path["key"])
        if key is None:
            raise UnknownSubject(f"there is no key {call.path['key']!r}")
        if not any(_is_admin(other) for other in keys.values() if other.id != key.id):
            raise Conflict("this is the last key that may manage keys", hint="create another admin key first")
        control.registry.commit(Change(call.principal.name, "key.revoke", f"key:{key.id}", "", (DropKey(key.id),)))
    return Answer(key_body(key))


def list_quarantine(control: Control, call: Call) -> Answer:
    """Return one page of every digest ever quarantined, by digest."""
    limit, after, now_s = call.asked("limit", int), call.asked("after", str), control.clock.now_s()
    held = sorted((one for one in control.registry.quarantines() if one.digest > after), key=lambda one: one.digest)
    return page_of(
        "quarantine", held[: limit + 1], limit, show=lambda one: _quarantine_shown(one, now_s), key=lambda one: one.digest
    )


def release(control: Control, call: Call) -> Answer:
    """Release a digest before its time; its strikes stay.

    Raises:
        MalformedRequest: no reason was given.
        UnknownSubject: the digest is not in quarantine now.
        RevisionConflict: it was convicted again meanwhile.
    """
    digest, now_s, reason = call.path["digest"], control.clock.now_s(), call.asked("reason", str)
    if not reason.strip():
        raise MalformedRequest("reason: missing; expected why, in a sentence; it stands in the audit log")
    held = next((one for one in control.registry.quarantines() if one.digest == digest), None)
    if held is None or held.until_s <= now_s:
        raise UnknownSubject(f"digest {digest[:80]!r} is not in quarantine")
    released = replace(held, until_s=0.0)
    control.registry.commit(Change(call.principal.name, "quarantine.release", f"quarantine:{digest}", reason, (released,)))
    return Answer(_quarantine_shown(released, now_s))


def show_automation(control: Control, _: Call) -> Answer:
    """Return whether the gateway may change routes by itself, and whether too many rollbacks keep it from raising anything."""
    return Answer({"is_on": control.registry.automation().is_on, "fleet": fleet(picture(control)).body()})


def put_automation(control: Control, call: Call) -> Answer:
    """Allow or stop all automatic changes; either needs a reason."""
    fields = call.fields("body")
    is_on, reason = fields.boolean("is_on"), fields.reason()
    fields.done()
    action = "automation.on" if is_on else "automation.off"
    control.registry.commit(Change(call.principal.name, action, "automation", reason, (Automation(is_on),)))
    return Answer({"is_on": is_on})


def _walked(control: Control, last: list[AuditEntry], hashes: dict[int, str]) -> Iterator[AuditEntry]:
    """Yield every entry, leaving the newest one seen in `last`, and in `hashes` those of the numbers that are in it."""
    while page := control.registry.audit(last[0].seq if last else 0, _PAGE):
        for entry in page:
            last[:] = [entry]
            if entry.seq in hashes:
                hashes[entry.seq] = entry.hash
            yield entry


def _is_admin(key: Key) -> bool:
    return Scope.ADMIN in key.scopes


def _scope(item: object) -> Scope:
    for scope in Scope:
        if scope.value == item:
            return scope
    raise MalformedRequest(f"body.scopes: {str(item)[:40]!r} is not one of " + ", ".join(scope.value for scope in Scope))


def _quarantine_shown(quarantine: Quarantine, now_s: float) -> Json:
    return {**quarantine_body(quarantine), "is_active": quarantine.until_s > now_s}
