"""Object storage: one interface for a folder and for a bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from inference_service.errors import (
    StorageForbidden,
    StorageFull,
    StorageMissing,
    StorageUnavailable,
    UnusableKey,
)
from jobkit.errors import JobkitError, SettingsError
from jobkit.storage import Trouble, folder_of, refuse_special_file, trouble_of

REQUEST_TIMEOUT = timedelta(seconds=30)  #: One request, with its body: a model of 100 MiB at 4 MiB/s just fits.
CONNECT_TIMEOUT = timedelta(seconds=5)
RETRIES = 2  #: Inside one call; longer outages are the retry policy's, which gives the thread back in between.


@dataclass(frozen=True)
class Stored:
    """An object's key, and when it was written."""

    key: str
    written_at: datetime


class Storage(Protocol):
    """Objects by key.

    Every method raises ``StorageUnavailable`` if the storage cannot answer (with ``StorageMissing`` and ``StorageFull``
    for two reasons), ``StorageForbidden`` if it refuses, and ``UnusableKey`` if no object can have the key.
    """

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes | None:
        """The object, or None if there is none; ``ValueError`` if it is larger than ``max_bytes``."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Store an object atomically: a reader sees the old bytes or the new ones, never a part."""
        ...

    def keys(self, prefix: str) -> list[str]:
        """The keys below a folder, sorted."""
        ...

    def listing(self, prefix: str) -> list[Stored]:
        """The objects below a folder, sorted by key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        ...


class ObjectStorage:
    """Storage behind any of obstore's stores.

    A local put writes a file of another name and renames it; S3, GCS and Azure make an object visible when it is whole.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes | None:
        """See ``Storage``; the size is checked before the body is read."""
        with self._told_apart("read", key) as found:
            refuse_special_file(self._store, key)
            result = obstore.get(self._store, key)
            size = result.meta["size"]
            if max_bytes is None or size <= max_bytes:
                return bytes(result.bytes())
        if not found:
            return None
        raise ValueError(f"{size} bytes are more than {max_bytes}")

    def put(self, key: str, data: bytes) -> None:
        """See ``Storage``."""
        with self._told_apart("write", key):
            self._refuse_if_gone()
            obstore.put(self._store, key, data)

    def keys(self, prefix: str) -> list[str]:
        """See ``Storage``."""
        return [found.key for found in self.listing(prefix)]

    def listing(self, prefix: str) -> list[Stored]:
        """See ``Storage``."""
        found: list[Stored] = []
        with self._told_apart("list", prefix):
            self._refuse_if_gone()
            for page in obstore.list(self._store, prefix):
                found.extend(Stored(item["path"], item["last_modified"]) for item in page)
        return sorted(found, key=lambda one: one.key)

    def delete(self, key: str) -> None:
        """See ``Storage``."""
        with self._told_apart("delete", key):
            obstore.delete(self._store, key)

    def _refuse_if_gone(self) -> None:
        # Otherwise a folder whose disk is not mounted is made again, and is empty.
        folder = folder_of(self._store)
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"{folder} is not there")

    @contextmanager
    def _told_apart(self, verb: str, key: str) -> Iterator[list[str]]:
        """Raise the service's own error for a failure; only a missing object passes, and empties what is yielded."""
        found = [key]
        try:
            yield found
        # obstore raises its own errors for most failures, Python's OSError for the rest, ValueError for odd keys.
        except (BaseError, OSError, ValueError) as error:
            trouble = trouble_of(error, self._store)
            if trouble is not Trouble.MISSING:
                raise _error(trouble, verb, key, error) from error
            found.clear()


_ERRORS: Final[dict[Trouble, tuple[type[JobkitError], str]]] = {
    Trouble.NO_STORAGE: (StorageMissing, "its bucket or folder is not there: create or mount it"),
    Trouble.FULL: (StorageFull, "it has no room"),
    Trouble.OUTAGE: (StorageUnavailable, ""),
    Trouble.FORBIDDEN: (
        StorageForbidden,
        "it refuses us: check the key, and the permissions to read, to write and to list",
    ),
    Trouble.BAD_KEY: (UnusableKey, "no object can have this key"),
}


def _error(trouble: Trouble, verb: str, key: str, cause: Exception) -> JobkitError:
    kind, reason = _ERRORS[trouble]
    return kind(": ".join(filter(None, (f"the storage could not {verb} {key}", reason, _first_line(cause)))))


def open_storage(url: str) -> ObjectStorage:
    """The storage at a URL; a missing local folder is made, and nothing is asked of a remote one.

    Raises:
        SettingsError: the URL is not usable, or its folder cannot be written to.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme == "file":
            folder = Path(url2pathname(parts.path))
            folder.mkdir(parents=True, exist_ok=True)
            if not os.access(folder, os.W_OK | os.X_OK):
                raise SettingsError(
                    f"INFERENCE_STORAGE_URL: {folder} is not writable: let the worker's user write to it"
                )
        if parts.scheme in ("file", "memory"):
            return ObjectStorage(from_url(url))
        return ObjectStorage(
            from_url(
                url,
                client_options={
                    "timeout": REQUEST_TIMEOUT,
                    "connect_timeout": CONNECT_TIMEOUT,
                    # Options given here replace AWS_ALLOW_HTTP; whether there is TLS is decided by the endpoint's URL.
                    "allow_http": True,
                },
                retry_config={"max_retries": RETRIES, "retry_timeout": 2 * REQUEST_TIMEOUT},
            )
        )
    except (BaseError, OSError, ValueError) as error:
        raise SettingsError(f"INFERENCE_STORAGE_URL: {url} cannot be used: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # What follows is obstore's debugging dump of the same error.
    return str(error).partition("\n")[0]
