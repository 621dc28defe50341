"""The storage: sources are read from it, outputs are added to it under names derived from their content."""

import hashlib
import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from images_service.adapters.formats import MEDIA_TYPES
from images_service.errors import BadKey, MissingSource, SourceTooLarge, StorageRefused, StorageUnavailable
from jobkit.errors import SettingsError
from jobkit.storage import Trouble, refuse_special_file, trouble_of

if TYPE_CHECKING:
    from obstore import Attributes  # in its stubs alone

#: Repeats of one request within an attempt of the job: enough for a dropped connection; outages are the retry policy's.
REQUEST_RETRIES = 2
RETRY_TIMEOUT = timedelta(seconds=30)


class Storage(Protocol):
    """A place for images. Implementations are safe to share between threads."""

    def read(self, key: str) -> bytes:
        """The whole object.

        Raises:
            MissingSource: there is no such object.
            SourceTooLarge: it has too many bytes; they have not been read.
            BadKey: the storage cannot hold an object of that name, or what has it is no file.
            StorageRefused: the storage does not give this one key.
            StorageUnavailable: the storage did not answer.
        """
        ...

    def add(self, data: bytes, suffix: str) -> str:
        """Write an object whole or not at all, and return its key: a digest of the data, and ``suffix`` (``.jpg``).

        The same data has the same key, so adding it again rewrites the same object.

        Raises:
            StorageRefused: the storage does not let us write there.
            StorageUnavailable: the storage did not take it, for instance because it is full.
        """
        ...


class ObjectStorage:
    """A storage on anything that ``obstore`` opens: a directory, S3, Google Cloud Storage, Azure.

    Args:
        store: What ``open_store`` returns.
        max_bytes: Of a source.
        output_prefix: Folder of the outputs.
        cache_control: The header that browsers and CDNs see with an output; none if it is empty.
    """

    def __init__(self, store: ObjectStore, *, max_bytes: int, output_prefix: str, cache_control: str = "") -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._output_prefix = output_prefix
        self._cache_control = cache_control

    def read(self, key: str) -> bytes:
        """See ``Storage.read``."""
        try:
            refuse_special_file(self._store, key)
            found = obstore.get(self._store, key)
            size = found.meta["size"]
            if size > self._max_bytes:
                raise SourceTooLarge(f"{key!r} has {size} bytes, and IMAGES_MAX_BYTES allows {self._max_bytes}.")
            return bytes(found.bytes())
        except (BaseError, OSError, ValueError) as error:
            raise self._read_failed(key, error) from error

    def add(self, data: bytes, suffix: str) -> str:
        """See ``Storage.add``; obstore writes a local file aside and renames it, and S3 shows only whole objects."""
        key = f"{self._output_prefix}/{hashlib.sha256(data).hexdigest()}{suffix}"
        try:
            obstore.put(self._store, key, data, attributes=self._attributes(suffix))
        except (BaseError, OSError, ValueError) as error:
            text = f"The storage did not take {key!r}: {_reason(error)}."
            if trouble_of(error, self._store) is Trouble.FORBIDDEN:
                raise StorageRefused(text) from error
            raise StorageUnavailable(text) from error
        return key

    def _attributes(self, suffix: str) -> "Attributes | None":
        if isinstance(self._store, LocalStore):
            return None  # files have none
        attributes: Attributes = {"Content-Type": MEDIA_TYPES.get(suffix, "application/octet-stream")}
        if self._cache_control:
            attributes["Cache-Control"] = self._cache_control
        return attributes

    def _read_failed(self, key: str, error: BaseException) -> Exception:
        match trouble_of(error, self._store):
            case Trouble.MISSING:
                return MissingSource(f"The storage holds no {key!r}: upload the source before the job is sent.")
            case Trouble.BAD_KEY:
                return BadKey(f"{key!r} cannot be a key in this storage: {_reason(error)}.")
            case Trouble.FORBIDDEN:
                return StorageRefused(
                    f"The storage refused {key!r}: {_reason(error)}. Either it is not there and this service may not "
                    "list the bucket, or this service may not read it."
                )
            case _:
                return StorageUnavailable(f"The storage did not give {key!r}: {_reason(error)}.")


def open_store(location: str) -> ObjectStore:
    """Open a URL or a directory, without any request over a network.

    Raises:
        SettingsError: the location is of no known kind, or a directory that cannot be written to.
    """
    url = urlsplit(location)
    try:
        if url.scheme == "":
            return _open_directory(Path(location))
        if url.scheme == "file":
            return _open_directory(_directory(url))
        if url.scheme == "memory":
            return from_url(location)
        # No client_options: given any, obstore 0.12 forgets AWS_ALLOW_HTTP. Its own limits per request are 5 s to
        # connect and 30 s in all; AWS_TIMEOUT changes the latter.
        return from_url(location, retry_config={"max_retries": REQUEST_RETRIES, "retry_timeout": RETRY_TIMEOUT})
    except (BaseError, OSError, ValueError) as error:
        raise SettingsError(f"IMAGES_STORAGE_URL: cannot open {location!r}: {_reason(error)}.") from error


def _directory(url: SplitResult) -> Path:
    if url.netloc not in ("", "localhost"):
        raise ValueError("a file URL has three slashes, like file:///srv/images")
    return Path(unquote(url.path))


def _open_directory(directory: Path) -> ObjectStore:
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        raise PermissionError(f"this user may not write to {directory}")
    return LocalStore(directory)


def _reason(error: BaseException) -> str:
    """The first line: obstore puts a dump of its internals below it."""
    return str(error).partition("\n")[0].rstrip(" .")
