"""The generated messages are those of the .proto file, and each error has its code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.core import errors
from gateway.web import code_of, status_of

ROOT = Path(__file__).parents[3]
MESSAGES = ROOT / "gateway" / "serving" / "grpc"
CODES = {  # HTTP's status → what gRPC calls it
    400: {"INVALID_ARGUMENT"},
    401: {"UNAUTHENTICATED"},
    403: {"PERMISSION_DENIED"},
    404: {"NOT_FOUND"},
    408: {"INVALID_ARGUMENT"},
    409: {"FAILED_PRECONDITION"},
    413: {"RESOURCE_EXHAUSTED"},
    415: {"INVALID_ARGUMENT"},
    422: {"INVALID_ARGUMENT"},
    429: {"RESOURCE_EXHAUSTED"},
    500: {"INTERNAL"},
    501: {"UNIMPLEMENTED"},
    503: {"UNAVAILABLE", "RESOURCE_EXHAUSTED"},
    504: {"DEADLINE_EXCEEDED"},
}


def test_generated_messages_are_those_of_the_proto_file(tmp_path):
    """Generating again gives the files that are checked in, so that nobody changed one side alone."""
    home = Path(sys.executable).parent
    command = ["make", "-s", "proto", f"BIN={home}", f"PROTO_OUT={tmp_path}"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"MAKEFLAGS": ""}, timeout=60)
    for name in ("inference_pb2.py", "inference_pb2.pyi"):
        assert (tmp_path / name).read_text() == (MESSAGES / name).read_text()


def test_every_error_has_a_code_that_fits_its_status():
    """GRPC's code of an error says what its HTTP status says."""
    kinds = [errors.GatewayError]
    for kind in kinds:
        kinds += kind.__subclasses__()
        error = kind.__new__(kind, "")
        assert code_of(error) in CODES[status_of(error)], kind
