"""Object storage: sources, what one step leaves for the next, and rejects."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Protocol

import obstore
from obstore.exceptions import BaseError, InvalidPathError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

from etl_service.errors import DiskUnavailable, SourceMissing, SourceTooLarge, StorageUnavailable
from jobkit.errors import SettingsError

_CHUNK = 1 << 20


class Files(Protocol):
    """What the handlers need of a storage."""

    def download(self, key: str, to: Path, *, limit: int | None = None) -> None:
        """Copy an object to a local file.

        Raises:
            SourceMissing: there is none under that key.
            SourceTooLarge: it has more than ``limit`` bytes.
            StorageUnavailable: the storage did not answer.
            DiskUnavailable: the file could not be written.
        """

    def upload(self, path: Path, *, folder: str, name: str) -> str:
        """Store a local file as ``folder/stem-digest.suffix``, at once or not at all, and return that key.

        The digest is that of the content, so a second upload of the same bytes writes the same object.

        Raises:
            StorageUnavailable: the storage did not take it.
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
            found = obstore.get(self._store, key)
        except (FileNotFoundError, NotFoundError) as error:
            raise SourceMissing(f"there is no object {key!r} in storage") from error
        except (InvalidPathError, ValueError) as error:
            raise SourceMissing(f"{key!r} cannot be the key of an object") from error
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"{key!r} could not be read: {str(error).splitlines()[0]}") from error
        size = found.meta["size"]
        if limit is not None and size > limit:
            raise SourceTooLarge(f"{key!r} has {size} bytes, and ETL_MAX_BYTES allows {limit}")
        try:
            with to.open("wb") as file:
                for chunk in found.stream(min_chunk_size=_CHUNK):
                    file.write(chunk)
        except BaseError as error:
            raise StorageUnavailable(f"{key!r} could not be copied: {str(error).splitlines()[0]}") from error
        except OSError as error:
            raise DiskUnavailable(f"{key!r} could not be written to the local disk: {error}") from error

    def upload(self, path: Path, *, folder: str, name: str) -> str:
        """See ``Files``."""
        try:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DiskUnavailable(f"{name} could not be read from the local disk: {error}") from error
        stem, _, suffix = name.partition(".")
        key = f"{folder}/{stem}-{digest[:32]}.{suffix}"
        try:
            obstore.put(self._store, key, path)
        except (BaseError, OSError) as error:
            raise StorageUnavailable(f"{name} could not be stored: {str(error).splitlines()[0]}") from error
        return key


@contextmanager
def scratch() -> Iterator[Path]:
    """A local folder for the time of one job.

    Raises:
        DiskUnavailable: the disk is full or not writable.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="etl-") as folder:
            yield Path(folder)
    except OSError as error:
        raise DiskUnavailable(f"local disk: {error}") from error
