"""Validation in a process of its own, where an uploaded artifact can harm nothing.

The child bounds its own memory, files and processor time before it opens the artifact (see `child.py`), and is held to a deadline
and a bound on its answer from outside (see `adapters/child.py`). Whatever becomes of it, the caller gets the version or one clear
sentence.
"""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Final

from adapters.child import NoAnswer, Why, answer_of
from adapters.runtimes.pickles.limits import Limits
from gateway.core.errors import GatewayError, NotValid
from gateway.core.fields import Fields, Json
from gateway.core.models import Conversion, Version
from gateway.core.version_bodies import version_body, version_from_body

ANSWER_BYTES_MAX: Final = 64 * 2**20  # a profile of 10,000 columns, the most there may be, takes 40 MB
OUTPUTS_MAX: Final = 10_000  # of one version
CHILD: Final = "adapters.validation.child"


class ProcessValidator:
    """A `Validator` that runs each validation in a fresh process."""

    def __init__(
        self, *, timeout_s: float, memory_bytes: int, limits: Limits | None = None, interpreters: Sequence[str] = ()
    ) -> None:
        """Prepare.

        Args:
            limits: Of the processes that unpickle; None refuses pickled versions.
            interpreters: What a pickled version may bring.
        """
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._limits = limits
        self._interpreters = list(interpreters)

    def validate(
        self,
        artifact: PurePath,
        reference: PurePath | None,
        version: Version,
        *,
        before: Sequence[tuple[Version, PurePath]] = (),
    ) -> Version:
        """Run the child and read its answer.

        Raises:
            NotValid: the child says so, gave no answer, or was killed.
        """
        return self._validated(artifact, reference, version, before=before)

    def convert(
        self, artifact: PurePath, reference: PurePath, version: Version, conversion: Conversion, into: PurePath
    ) -> Version:
        """Run the child and have it convert too.

        Raises:
            NotValid: as of `validate`, or the conversion failed or does not agree.
        """
        more = {"into": str(into), "atol": conversion.atol, "rtol": conversion.rtol}
        return self._validated(artifact, reference, version, conversion=more)

    def recompute(
        self, artifact: PurePath, version: Version, prediction: Json, *, members: Sequence[tuple[Version, PurePath]] = ()
    ) -> Json:
        """Run the child and have it run the model alone; see `Validator.recompute`.

        Raises:
            NotValid: the child says so, gave no answer, or was killed.
        """
        fields = self._ordered(artifact, None, version, before=members, prediction=prediction)
        return {"runtime_version": fields.text("runtime_version"), "outputs": list(fields.items("outputs", OUTPUTS_MAX))}

    def _validated(
        self,
        artifact: PurePath,
        reference: PurePath | None,
        version: Version,
        *,
        conversion: Json | None = None,
        before: Sequence[tuple[Version, PurePath]] = (),
    ) -> Version:
        fields = self._ordered(artifact, reference, version, before=before, conversion=conversion)
        try:
            return version_from_body(fields.value("version"))
        except GatewayError as error:
            raise _unreadable(error) from error

    def _ordered(
        self,
        artifact: PurePath,
        reference: PurePath | None,
        version: Version,
        *,
        before: Sequence[tuple[Version, PurePath]],
        conversion: Json | None = None,
        prediction: Json | None = None,
    ) -> Fields:
        order = {
            "artifact": str(artifact),
            "reference": None if reference is None else str(reference),
            "version": version_body(version),
            "memory_bytes": self._memory_bytes,
            "timeout_s": self._timeout_s,
            "conversion": conversion,
            "before": [{"version": version_body(member), "artifact": str(path)} for member, path in before],
            "prediction": prediction,
            "pickles": None,
        }
        if not any(one.has_pickle for one in (version, *(member for member, _ in before))):
            return self._answer(self._run(json.dumps(order).encode()))
        if self._limits is None:
            raise NotValid("pickled models are not taken here")
        self._limits.scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._limits.scratch, ignore_cleanup_errors=True) as scratch:
            limits = {
                **dataclasses.asdict(self._limits),
                "scratch": str(Path(scratch) / "pickles"),
                "memory_bytes": self._memory_bytes,  # the imports, which no fork server has made yet, count here
            }
            order["pickles"] = {"limits": limits, "interpreter": sys.executable, "interpreters": self._interpreters}
            return self._answer(self._run(json.dumps(order).encode()))

    def _run(self, order: bytes) -> bytes:
        try:
            return answer_of(CHILD, order, timeout_s=self._timeout_s, bytes_max=ANSWER_BYTES_MAX)
        except NoAnswer as error:
            raise self._refusal(error) from error

    def _refusal(self, error: NoAnswer) -> NotValid:
        if error.why is Why.NOT_STARTED:
            return NotValid(f"the validation process did not start: {error.ending}")
        if error.why is Why.TOO_LONG:
            return NotValid("the validation process answered too much")
        if error.why is Why.LATE or error.signal == signal.SIGXCPU:
            return NotValid(
                f"validation did not finish within {self._timeout_s:g} s: the model may not end, or be too slow",
                hint="control.validation_timeout_s is the bound",
            )
        return NotValid(f"the artifact ended its validation process: {self._ending(error)}")

    def _ending(self, error: NoAnswer) -> str:
        if not error.signal:
            return f"it exited with {error.ending}"
        if error.signal == signal.SIGABRT:
            return f"{error.ending}, most likely out of its {self._memory_bytes / 2**30:.1f} GiB of memory"
        return f"killed by {error.ending}"

    def _answer(self, answer: bytes) -> Fields:
        try:
            fields = Fields(json.loads(answer), "validation")
            if not fields.has("error"):
                return fields
            reason, hint = fields.text("error"), fields.text("hint", "")
        except (ValueError, GatewayError) as error:
            raise _unreadable(error) from error
        raise NotValid(reason, hint=hint or None)


def _unreadable(error: Exception) -> NotValid:
    return NotValid(f"the validation process gave an answer that cannot be read: {error}")
