"""Object storage: one interface for a folder and for a bucket."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from inference_service.errors import StorageUnavailable
from jobkit.errors import SettingsError

REQUEST_TIMEOUT = timedelta(seconds=30)  #: One request, with its body: a model of 100 MiB at 4 MiB/s just fits.
CONNECT_TIMEOUT = timedelta(seconds=5)
RETRIES = 2  #: Inside one call; longer outages are the retry policy's, which gives the thread back in between.


@dataclass(frozen=True)
class Stored:
    """An object's key, and when it was written."""

    key: str
    written_at: datetime


class Storage(Protocol):
    """Objects by key. Every method raises ``StorageUnavailable`` if the storage cannot answer."""

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
        with _outages(f"read {key}"):
            try:
                result = obstore.get(self._store, key)
            except FileNotFoundError:
                return None
            size = result.meta["size"]
            if max_bytes is None or size <= max_bytes:
                return bytes(result.bytes())
        raise ValueError(f"{size} bytes are more than {max_bytes}")

    def put(self, key: str, data: bytes) -> None:
        """See ``Storage``."""
        with _outages(f"write {key}"):
            obstore.put(self._store, key, data)

    def keys(self, prefix: str) -> list[str]:
        """See ``Storage``."""
        return [found.key for found in self.listing(prefix)]

    def listing(self, prefix: str) -> list[Stored]:
        """See ``Storage``."""
        with _outages(f"list {prefix}"):
            found = [item for page in obstore.list(self._store, prefix) for item in page]
        return sorted((Stored(item["path"], item["last_modified"]) for item in found), key=lambda one: one.key)

    def delete(self, key: str) -> None:
        """See ``Storage``."""
        with _outages(f"delete {key}"):
            try:
                obstore.delete(self._store, key)
            except FileNotFoundError:
                return


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


@contextmanager
def _outages(action: str) -> Iterator[None]:
    # obstore raises its own errors for most failures and Python's OSError for the rest.
    try:
        yield
    except (BaseError, OSError) as error:
        raise StorageUnavailable(f"the storage could not {action}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # What follows is obstore's debugging dump of the same error.
    return str(error).partition("\n")[0]
