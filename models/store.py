"""Files below one URL, of this machine or behind fsspec: what the registry is written with.

A write is whole or not at all, and `create` fails where there is such a file: that is all the locking there is.
"""

import importlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.errors import DefinitionError


class Folder:
    """A folder of this machine, on a file system with hard links."""

    def __init__(self, root: Path) -> None:
        self._root, self.url = root, str(root)

    def read(self, name: str, limit: int = -1) -> bytes:
        """At most `limit` bytes of a file."""
        with (self._root / name).open("rb") as file:
            return file.read(limit)

    @contextmanager
    def _written(self, name: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid.uuid4().hex}")
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield part, path
        finally:
            part.unlink(missing_ok=True)

    def write(self, name: str, data: bytes) -> None:
        """Make or replace a file."""
        with self._written(name, data) as (part, path):
            part.replace(path)

    def create(self, name: str, data: bytes) -> None:
        """Make a file; FileExistsError where there is one."""
        with self._written(name, data) as (part, path):
            os.link(part, path)

    def names(self, name: str) -> list[str]:
        """What is in a folder; nothing where there is none."""
        folder = self._root / name
        return [path.name for path in folder.iterdir()] if folder.is_dir() else []


class Remote:
    """As `Folder`, behind an fsspec URL whose file system creates exclusively: memory, S3 and GCS do."""

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self._fs, self._root = importlib.import_module("fsspec.core").url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise DefinitionError(
                f"registry {url}: {error}; expected a folder, or a URL for which fsspec and the package of its "
                "protocol are installed, as `pip install fsspec s3fs` for s3://"
            ) from error

    def read(self, name: str, limit: int = -1) -> bytes:
        """At most `limit` bytes of a file."""
        with self._fs.open(f"{self._root}/{name}", "rb") as file:
            return bytes(file.read(limit))

    def write(self, name: str, data: bytes, mode: str = "overwrite") -> None:
        """Make or replace a file."""
        path = f"{self._root}/{name}"
        self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        self._fs.pipe_file(path, data, mode=mode)

    def create(self, name: str, data: bytes) -> None:
        """Make a file; FileExistsError where there is one."""
        self.write(name, data, "create")

    def names(self, name: str) -> list[str]:
        """What is in a folder; nothing where there is none."""
        self._fs.invalidate_cache()
        try:
            return [str(path).rpartition("/")[2] for path in self._fs.ls(f"{self._root}/{name}", detail=False)]
        except FileNotFoundError:
            return []


def store(url: str) -> Folder | Remote:
    """The files below `url`, a folder or an fsspec URL; touches nothing yet."""
    protocol, _, path = url.rpartition("://")
    if protocol in ("", "file", "local"):  # fsspec's local files are not written whole or not at all
        return Folder(Path(path).expanduser().absolute())
    return Remote(url.rstrip("/"))
