"""Object storage: sources, what one step leaves for the next, and rejects."""

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from etl_service.errors import (
    DiskFull,
    DiskTooSmall,
    DiskUnavailable,
    SourceChanged,
    SourceMissing,
    SourceTooLarge,
    StorageTrouble,
    StorageUnavailable,
)
from jobkit.errors import JobkitError, SettingsError
from jobkit.storage import Trouble, refuse_special_file, trouble_of

if TYPE_CHECKING:
    from obstore import GetResult

#: Bytes that are collected before they are written.
_CHUNK = 1 << 20

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Files(Protocol):
    """What the handlers need of a storage."""

    def download(self, key: str, to: Path, *, limit: int | None = None) -> None:
        """Copy an object to a local file.

        Raises:
            SourceMissing: there is none under that key.
            SourceTooLarge: it has more than ``limit`` bytes.
            SourceChanged: it was written while it was copied.
            StorageTrouble: the storage did not hand it out; ``StorageUnavailable`` if it hands out nothing.
            DiskUnavailable: the file could not be written.
        """

    def upload(self, path: Path, *, folder: str, name: str) -> str:
        """Store a local file as ``folder/stem-digest.suffix``, at once or not at all, and return that key.

        The digest is that of the content, so a second upload of the same bytes writes the same object.

        Raises:
            StorageTrouble: the storage did not take it; ``StorageUnavailable`` if it takes nothing.
            DiskUnavailable: the file could not be read.
        """


class ObjectFiles:
    """``Files`` in any storage that obstore knows. Credentials come from the usual variables (``AWS_…``)."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @classmethod
    def at(cls, url: str) -> "ObjectFiles":
        """The storage at a URL or in a folder; makes the folder, and connects to nothing.

        Raises:
            SettingsError: the folder cannot be made or the URL is of no known kind.
        """
        try:
            if "://" not in url:
                return cls(LocalStore(Path(url).absolute(), mkdir=True))
            if url.startswith("file://"):
                return cls(LocalStore.from_url(url, mkdir=True))
            return cls(from_url(url, retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)}))
        except (BaseError, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise SettingsError(f"ETL_STORAGE_URL: {url} cannot be opened: {reason}") from error

    def download(self, key: str, to: Path, *, limit: int | None = None) -> None:
        """See ``Files``."""
        try:
            refuse_special_file(self._store, key)
            found = obstore.get(self._store, key)
        except (BaseError, OSError, ValueError) as error:
            raise self._explained(error, key, "read") from error
        size = found.meta["size"]
        if limit is not None and size > limit:
            raise SourceTooLarge(f"{key!r} has {size} bytes, and ETL_MAX_BYTES allows {limit}")
        with _disk(f"{key!r} could not be written to the local disk"):
            _need_room(to.parent, size)
            with to.open("wb", buffering=_CHUNK) as file:
                for chunk in self._chunks(found, key):
                    file.write(chunk)

    def _chunks(self, found: "GetResult", key: str) -> Iterator[bytes]:
        size, copied = found.meta["size"], 0
        try:
            # Without a least size: of a local file that has become shorter, it would collect empty chunks for ever.
            for chunk in found.stream(min_chunk_size=0):
                copied += len(chunk)
                if not chunk or copied > size:
                    break
                yield bytes(chunk)
            now = self._store.head(key)
        except (BaseError, OSError, ValueError) as error:
            raise self._explained(error, key, "copied") from error
        if copied != size or (now["size"], now["e_tag"]) != (size, found.meta["e_tag"]):
            raise SourceChanged(
                f"{key!r} changed while it was copied ({copied} of {size} bytes read, {now['size']} now): "
                "let its producer write another object and rename it"
            )

    def _explained(self, error: Exception, key: str, done: str) -> JobkitError:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        match trouble_of(error, self._store):
            case Trouble.MISSING:
                return SourceMissing(f"there is no object {key!r} in storage")
            case Trouble.BAD_KEY:
                return SourceMissing(f"{key!r} cannot be the key of an object: {reason}")
            case Trouble.FORBIDDEN:
                return StorageTrouble(f"{key!r} may not be {done}, or is not there: {reason}")
            case _:
                return StorageUnavailable(f"{key!r} could not be {done}: {reason}")

    def upload(self, path: Path, *, folder: str, name: str) -> str:
        """See ``Files``."""
        with _disk(f"{name} could not be read from the local disk"), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}-{digest[:32]}.{suffix}"
        try:
            obstore.put(self._store, key, path)
        except (BaseError, OSError, ValueError) as error:
            raise self._explained(error, key, "stored") from error
        return key


@contextmanager
def scratch() -> Iterator[Path]:
    """A local folder for the time of one job.

    Raises:
        DiskFull: the disk has no room left.
        DiskTooSmall: the files in the folder alone fill it.
        DiskUnavailable: it cannot be written to for another reason.
    """
    with _disk("local disk"), tempfile.TemporaryDirectory(prefix="etl-") as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno in _NO_ROOM:
                _refuse_if_alone(Path(folder), needed=0)
            raise


@contextmanager
def _disk(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise DiskFull(f"{what}: no room left in {tempfile.gettempdir()}") from error
        raise DiskUnavailable(f"{what}: {error}") from error


def _need_room(folder: Path, size: int) -> None:
    if shutil.disk_usage(folder).free < size:
        _refuse_if_alone(folder, needed=size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refuse_if_alone(folder: Path, *, needed: int) -> None:
    """Raise if the files in the folder, with ``needed`` bytes more, take most of the disk: no wait makes them room."""
    own = needed + sum(path.stat().st_size for path in folder.iterdir())
    total = shutil.disk_usage(folder).total
    if own > total // 2:
        raise DiskTooSmall(
            f"the job's files take {own:,} bytes of the {total:,} that {tempfile.gettempdir()} has: "
            "give it more, or set TMPDIR"
        )
