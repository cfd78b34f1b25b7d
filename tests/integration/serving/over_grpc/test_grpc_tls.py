"""The gRPC port with a certificate: it speaks TLS alone, and takes a renewed certificate without a restart.

The certificates are made for localhost and for these tests, and are good for nothing else.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from gateway.core.errors import MalformedRequest
from gateway.serving.grpc import inference_pb2 as pb
from gateway.web import read_certificate

CERTIFICATES = Path(__file__).parent / "certificates"


def _put(directory: Path, name: str) -> None:
    """Make a certificate and its key those of the port, the key first, as one who renews does."""
    for suffix in ("key", "pem"):
        shutil.copy(CERTIFICATES / f"{name}.{suffix}", directory / f"port.{suffix}")


def _client(port: int, root: str) -> tritonclient.grpc.InferenceServerClient:
    options = [("grpc.use_local_subchannel_pool", 1)]
    trusted = str(CERTIFICATES / f"{root}.pem")
    return tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}", ssl=True, root_certificates=trusted, channel_args=options)


def test_grpc_with_a_certificate_speaks_tls_alone(make_worker, free_port, models, until, tmp_path):
    """Who trusts the certificate is answered, who speaks no TLS is not; a renewed one holds for the next connection."""
    _put(tmp_path, "first")
    files = {"grpc_certificate": str(tmp_path / "port.pem"), "grpc_key": str(tmp_path / "port.key")}
    worker = make_worker(grpc_port=free_port, **files).start()
    worker.register("m", "1", models.linear(), champion=True)
    worker.until_served(until)
    asked = tritonclient.grpc.InferInput("x", [1, 4], "FP32")
    asked.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
    with _client(free_port, "first") as client:
        assert client.infer("m", [asked]).as_numpy("y").item() == 10.0
        with grpc.insecure_channel(f"127.0.0.1:{free_port}") as plain:
            live = plain.unary_unary("/inference.GRPCInferenceService/ServerLive", pb.ServerLiveRequest.SerializeToString)
            with pytest.raises(grpc.RpcError) as refused:
                live(pb.ServerLiveRequest(), timeout=10)
        assert refused.value.code().name == "UNAVAILABLE"
        _put(tmp_path, "second")
        with _client(free_port, "second") as other:
            assert other.is_server_live(client_timeout=10)
        with _client(free_port, "first") as late, pytest.raises(InferenceServerException):
            late.is_server_live(client_timeout=10)
        (tmp_path / "port.key").write_text("half of a ke")
        with _client(free_port, "second") as other:
            assert other.is_server_live(client_timeout=10)
        assert client.infer("m", [asked]).as_numpy("y").item() == 10.0


@pytest.mark.parametrize(
    ("certificate", "key"), [("first.pem", "second.key"), ("first.key", "first.key"), ("none.pem", "first.key")]
)
def test_certificate_that_does_not_fit_is_refused(certificate, key):
    """A chain with another key, a file that holds none, and one that is not there are told apart by the reason."""
    with pytest.raises(MalformedRequest, match=certificate):
        read_certificate(str(CERTIFICATES / certificate), str(CERTIFICATES / key))
