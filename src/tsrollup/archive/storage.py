"""Where files lie: a folder of this machine, or whatever pyarrow has a file system for (s3://...).

A file has its name once all of it is there: in a folder it is written beside, put on disk and
renamed; a bucket shows no object before it is whole. No name is ever used twice.
"""

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

from tsrollup.errors import ArgumentError, TsrollupError

PART = ".part"
ASIDE = ".leftover"
CHUNK = 1 << 20

MAKE_ROOM = "make room there, and run it again: a table stays until its file is verified"
GIVE = "give a folder, or a URI such as s3://bucket/folder?region=eu-central-1"
WHERE_TO_LOOK = "look at the place and the rights there; of a bucket, at region and credentials"


class StorageError(TsrollupError):
    """A folder or bucket cannot be written, or read."""


@contextlib.contextmanager
def told(location: str) -> Iterator[None]:
    """What the system or Arrow says of a place, in one line without secrets; that a file is
    missing is the caller's to tell."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        said = error.strerror or _without_secret(" ".join(str(error).split()))
        hint = MAKE_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else WHERE_TO_LOOK
        raise StorageError(f"{location}: {said}", hint) from error


class Store(Protocol):
    location: str

    def write(self, file: str) -> "Draft": ...
    def open(self, file: str) -> IO[bytes]: ...
    def files(self, folder: str) -> list[str]: ...
    def set_aside(self, file: str) -> bool: ...


class Draft(Protocol):
    """A file that is being written."""

    stream: IO[bytes]

    def settle(self) -> None:
        """All of it is on disk."""

    def publish(self) -> None:
        """It has its name."""

    def discard(self) -> None:
        """It is gone."""


class Digest:
    """A stream that knows the SHA-256 and the size of what went through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.hash = hashlib.sha256()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:
        block = memoryview(data)
        self.stream.write(block)
        self.hash.update(block)
        self.size += block.nbytes
        return block.nbytes

    def flush(self) -> None:
        """The draft does, when it is finished."""

    def close(self) -> None:
        self.closed = True

    @property
    def checksum(self) -> str:
        return self.hash.hexdigest()


def checksum_of(store: Store, file: str, copy: IO[bytes] | None = None) -> tuple[str, int]:
    """SHA-256 and size of a file, and of the copy; FileNotFoundError where there is none."""
    found = hashlib.sha256()
    size = 0
    with told(store.location), store.open(file) as stream:
        while block := stream.read(CHUNK):
            found.update(block)
            size += len(block)
            if copy:
                with told(tempfile.gettempdir()):
                    copy.write(block)
    return found.hexdigest(), size


def store_at(location: str) -> Store:
    """The store at a folder, or at a URI as s3://bucket/folder?region=eu-central-1."""
    path = os.fspath(location).removeprefix("file://")
    if not path.strip():
        raise ArgumentError("no place for files is given", GIVE)
    if path == location and "://" in path:
        return Bucket(location)
    return Folder(Path(path).expanduser().absolute())


class Folder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.location = str(root)

    def write(self, file: str) -> "FolderDraft":
        path = self.root / file
        try:
            with told(self.location):
                _make_folders(path.parent)
                return FolderDraft(path)
        except FileNotFoundError as error:  # where there can be no folder, as in /proc
            raise StorageError(f"{self.location}: {error.strerror}", WHERE_TO_LOOK) from error

    def open(self, file: str) -> IO[bytes]:
        with told(self.location):
            return (self.root / file).open("rb")

    def files(self, folder: str) -> list[str]:
        found = (self.root / folder).rglob("*")
        return sorted(str(path.relative_to(self.root)) for path in found if path.is_file())

    def set_aside(self, file: str) -> bool:
        path = self.root / file
        _part_of(path).unlink(missing_ok=True)
        if not path.exists():
            return False
        path.rename(path.with_name(path.name + ASIDE))
        _sync_folder(path.parent)
        return True


class FolderDraft:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.part = _part_of(path)
        self.stream: IO[bytes] = self.part.open("xb")

    def settle(self) -> None:
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()

    def publish(self) -> None:
        self.part.rename(self.path)
        _sync_folder(self.path.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):  # what it could not write last
            self.stream.close()
        self.part.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


class Bucket:
    def __init__(self, uri: str) -> None:
        fs = _arrow_fs()
        try:
            self.system, self.root = fs.FileSystem.from_uri(uri)
        except (ValueError, OSError) as error:
            raise ArgumentError(
                f"no place for files: {_without_secret(str(error))}", GIVE
            ) from error
        self.location = _without_secret(uri)
        if not self.root or self.system.type_name == "mock":  # which keeps them in memory
            raise ArgumentError(f"no place for files: {self.location}", GIVE)

    def write(self, file: str) -> "BucketDraft":
        with told(self.location):
            return BucketDraft(self, f"{self.root}/{file}")

    def open(self, file: str) -> IO[bytes]:
        with told(self.location):
            return cast("IO[bytes]", self.system.open_input_file(f"{self.root}/{file}"))

    def files(self, folder: str) -> list[str]:
        selector = _arrow_fs().FileSelector(
            f"{self.root}/{folder}", recursive=True, allow_not_found=True
        )
        with told(self.location):
            found = [info.path for info in self.system.get_file_info(selector) if info.is_file]
        return sorted(path.removeprefix(f"{self.root}/") for path in found)

    def set_aside(self, file: str) -> bool:
        path = f"{self.root}/{file}"
        with told(self.location):
            if not self.system.get_file_info(path).is_file:
                return False
            self.system.move(path, path + ASIDE)
        return True


class BucketDraft:
    def __init__(self, bucket: Bucket, path: str) -> None:
        self.bucket = bucket
        self.path = path
        self.stream: IO[bytes] = cast("IO[bytes]", bucket.system.open_output_stream(path))

    def settle(self) -> None:
        """There is no object yet."""

    def publish(self) -> None:
        with told(self.bucket.location):
            self.stream.close()

    def discard(self) -> None:
        # Closing is what makes an object of the parts; nobody can take it for one of ours.
        with contextlib.suppress(OSError):
            self.stream.close()
        with contextlib.suppress(OSError):
            self.bucket.system.delete_file(self.path)


def _without_secret(text: str) -> str:
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", text)


def _part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def _make_folders(folder: Path) -> None:
    if not folder.is_dir():
        _make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _arrow_fs() -> Any:
    from pyarrow import fs

    return fs
