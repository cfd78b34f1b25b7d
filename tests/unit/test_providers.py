"""Execution providers as a version names them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.errors import MalformedRequest, NotValid
from gateway.core.metadata import metadata_from_body
from gateway.core.models import Digest, Runtime, Version
from gateway.core.providers import refuse_absent
from gateway.core.tensors import Signature
from gateway.core.version_bodies import version_body, version_from_body

PLAIN = Version("m", "1", Digest("0" * 64), 1, Runtime.ONNX, "", Signature((), ()))


def test_providers_keep_their_order():
    """What stands first at registration is tried first, and a version is read back as it was written."""
    named = metadata_from_body({"providers": ["tensorrt", "cuda", "cpu"]}).providers
    assert named == ("tensorrt", "cuda", "cpu")
    version = replace(PLAIN, providers=named)
    assert version_from_body(version_body(version)) == version
    assert version.provider == "tensorrt"


def test_provider_of_a_chain_is_that_of_every_member():
    """A chain names what each member would run on, in order; a version that names nothing runs on the processor."""
    chain = replace(PLAIN, runtime=Runtime.CHAINED, members=(PLAIN, replace(PLAIN, providers=("cuda", "cpu"))))
    assert (PLAIN.provider, chain.provider) == ("cpu", "cpu + cuda")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"providers": ["cuda", "cuda"]}, "providers[1]: cuda stands there twice"),
        ({"providers": ["CUDAExecutionProvider"]}, "providers[0]: expected a provider's name in lower case"),
        ({"providers": [7]}, "providers[0]"),
        ({"providers": "cuda"}, "metadata.providers: expected an array"),
        ({"providers": ["p"] * 9}, "array of at most 8"),
        ({"runtime": "pickled", "providers": ["cuda"]}, "only for the runtime onnx"),
    ],
)
def test_providers_that_cannot_be_meant_are_refused(body, told):
    """Names of another form, doubles, too many, and providers of a pickle are refused by name."""
    with pytest.raises(MalformedRequest) as refused:
        metadata_from_body(body)
    assert told in str(refused.value)


def test_absent_provider_is_refused_with_those_that_are_there():
    """The refusal lists what may be named instead."""
    refuse_absent(["cpu"], {"cpu", "cuda"})
    with pytest.raises(NotValid, match=r"'openvino' is not in .*, which has cpu, cuda"):
        refuse_absent(["cuda", "openvino", "cpu"], {"cuda", "cpu"})
