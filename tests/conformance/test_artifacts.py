"""What an `ArtifactStore` promises."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from adapters.stores import artifacts
from adapters.stores.artifacts import DirectoryArtifacts
from gateway.core.errors import ArtifactCorrupt, StoreFailed
from gateway.core.models import Digest


def digest_of(content: bytes) -> Digest:
    return Digest(hashlib.sha256(content).hexdigest())


def put(store: DirectoryArtifacts, content: bytes) -> Digest:
    staged = Path(store.staging())
    staged.write_bytes(content)
    store.put(staged, digest_of(content))
    return digest_of(content)


@pytest.fixture
def store(tmp_path):
    return DirectoryArtifacts(tmp_path / "artifacts")


def test_artifact_comes_back_as_it_was_put(store, tmp_path):
    """The bytes lie under their digest, read-only, and the staged file is gone."""
    digest = put(store, b"model" * 1000)
    path = Path(store.path(digest))
    assert path == tmp_path / "artifacts" / digest
    assert path.read_bytes() == b"model" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o444
    assert not list((tmp_path / "artifacts" / "staging").iterdir())


def test_artifact_put_again_changes_nothing(store):
    """The same bytes may be registered twice; a second store sees them too."""
    assert put(store, b"model") == put(store, b"model")
    assert Path(store.path(digest_of(b"model"))).read_bytes() == b"model"


def test_artifact_with_other_bytes_is_refused(store):
    """A file that does not have the digest it is put under never gets that name."""
    staged = Path(store.staging())
    staged.write_bytes(b"other")
    with pytest.raises(ArtifactCorrupt):
        store.put(staged, digest_of(b"model"))
    assert staged.exists()
    with pytest.raises(ArtifactCorrupt, match="missing"):
        store.path(digest_of(b"model"))


def test_artifact_store_gives_each_upload_its_own_file(store):
    """Two uploads at once do not share a file."""
    assert store.staging() != store.staging()


@pytest.mark.parametrize("digest", ["", ".", "..", "../staging", "a" * 63, "A" * 64, "a" * 64 + "\n", "/etc/passwd", "staging"])
def test_artifact_digest_never_names_another_file(store, digest):
    """Only 64 lower-case hexadecimal digits reach the file system."""
    with pytest.raises(ArtifactCorrupt):
        store.path(Digest(digest))
    with pytest.raises(ArtifactCorrupt):
        store.put(store.staging(), Digest(digest))


def test_artifact_that_changed_on_disk_is_found(store):
    """Bytes that were changed after the store verified them are found, even when size and time look the same."""
    path = Path(store.path(put(store, b"model")))
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"mOdel")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtifactCorrupt):
        store.path(digest_of(b"model"))


def test_artifact_is_read_once_while_it_does_not_change(store, monkeypatch):
    """A second look at an unchanged file costs one `stat`."""
    digest = put(store, b"model")
    read: list[Path] = []
    original = artifacts._refuse_other_bytes
    monkeypatch.setattr(artifacts, "_refuse_other_bytes", lambda path, of: (read.append(path), original(path, of)))
    for _ in range(3):
        store.path(digest)
    assert len(read) == 1


def test_artifact_store_removes_uploads_that_nobody_finished(store):
    """A staged file of yesterday goes with the next upload; a fresh one stays."""
    old, fresh = Path(store.staging()), Path(store.staging())
    os.utime(old, (0, 0))
    store.staging()
    assert not old.exists()
    assert fresh.exists()


def test_artifact_store_says_that_it_cannot_write(tmp_path):
    """A directory that cannot be made, or a staged file that is not there, is an error of the store."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreFailed):
        DirectoryArtifacts(tmp_path / "file" / "artifacts")
    with pytest.raises(StoreFailed):
        DirectoryArtifacts(tmp_path / "artifacts").put(tmp_path / "nothing", digest_of(b""))
