"""Copies an archive while it changes: files never change once they are named, and stay for a while after they no longer are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from adapters.archives.manifest import Manifest, load_manifest, swap_manifest

TRIES: Final = 10  # a file goes ten minutes after the manifest stopped naming it: copying began with an older one


def copied_archive(directory: Path, to: Path) -> Manifest:
    """Copy what the manifest names and is not there yet, remove what it does not, and return it as copied.

    Raises:
        OSError, ValueError: a file that is named cannot be read, or the copy not be written.
    """
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    for _ in range(TRIES - 1):
        manifest = load_manifest(directory)
        try:
            return _copied(directory, to, manifest)
        except FileNotFoundError:
            if load_manifest(directory) == manifest:
                raise
    return _copied(directory, to, load_manifest(directory))


def _copied(directory: Path, to: Path, manifest: Manifest) -> Manifest:
    named = {file.path for file in manifest.files}
    for name in sorted(named):
        if not (to / name).exists():
            (to / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            staged = to / (name + ".part")
            shutil.copyfile(directory / name, staged)
            staged.rename(to / name)
    for path in to.rglob("*.parquet"):
        if str(path.relative_to(to)) not in named:
            path.unlink()
    swap_manifest(to, manifest)
    return manifest
