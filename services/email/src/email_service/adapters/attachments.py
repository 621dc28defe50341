"""The storage from which attachments come."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from email_service.adapters.message import AttachedFile
from email_service.errors import AttachmentForbidden, AttachmentUnusable, StorageUnavailable
from jobkit.contracts.email import Attachment
from jobkit.errors import SettingsError
from jobkit.storage import Trouble, refuse_special_file, trouble_of

#: Repeats of one request within an attempt of the job: enough for a dropped connection; outages are the retry policy's.
_REPEATS: Final = 2
_REPEAT_TIME: Final = timedelta(seconds=30)


class Attachments(Protocol):
    """Reads what a job attaches."""

    def read(self, wanted: Sequence[Attachment]) -> tuple[AttachedFile, ...]:
        """Return the files, in their order.

        Raises:
            AttachmentUnusable: one is missing, cannot exist, or all together are too large.
            AttachmentForbidden: the storage refuses us one.
            StorageUnavailable: the storage does not answer.
        """
        ...


class StoredAttachments:
    """Attachments in anything that obstore opens: a folder, S3, Google Cloud Storage, Azure.

    Args:
        store: None if none is set; then a job with attachments fails.
        max_bytes: Of all attachments of one e-mail.
    """

    def __init__(self, store: ObjectStore | None, *, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes

    def read(self, wanted: Sequence[Attachment]) -> tuple[AttachedFile, ...]:
        """See ``Attachments``."""
        if not wanted:
            return ()
        if self._store is None:
            raise AttachmentUnusable("EMAIL_STORAGE_URL is not set, so that nothing can be attached")
        files = []
        room = self._max_bytes
        for one in wanted:
            data = self._read(self._store, one.key, room)
            room -= len(data)
            files.append(AttachedFile(one, data))
        return tuple(files)

    def _read(self, store: ObjectStore, key: str, room: int) -> bytes:
        try:
            refuse_special_file(store, key)
            found = obstore.get(store, key)
            if found.meta["size"] > room:
                raise AttachmentUnusable(
                    f"attachment {key!r} has {found.meta['size']:,} bytes: above EMAIL_MAX_ATTACHMENT_BYTES, which is "
                    f"{self._max_bytes:,} for all attachments of an e-mail"
                )
            return bytes(found.bytes())
        except (BaseError, OSError, ValueError) as error:
            raise _failure(store, key, error) from error


def open_store(location: str | None) -> ObjectStore | None:
    """Open a URL or a folder, without any request over a network.

    Raises:
        SettingsError: it cannot be opened.
    """
    if location is None:
        return None
    url = urlsplit(location)
    try:
        if url.scheme == "memory":
            return from_url(location)
        if url.scheme in ("", "file"):
            return LocalStore(Path(unquote(url.path) if url.scheme else location).absolute())
        # No client_options: given any, obstore 0.12 forgets AWS_ALLOW_HTTP.
        return from_url(location, retry_config={"max_retries": _REPEATS, "retry_timeout": _REPEAT_TIME})
    except (BaseError, OSError, ValueError) as error:
        raise SettingsError(f"EMAIL_STORAGE_URL: cannot open {location!r}: {_reason(error)}") from error


def _failure(store: ObjectStore, key: str, error: Exception) -> Exception:
    reason = _reason(error)
    match trouble_of(error, store):
        case Trouble.MISSING:
            return AttachmentUnusable(f"the storage holds no {key!r}: upload attachments before the job is sent")
        case Trouble.BAD_KEY:
            return AttachmentUnusable(f"{key!r} cannot be a key in this storage: {reason}")
        case Trouble.FORBIDDEN:
            return AttachmentForbidden(f"the storage refuses {key!r}: {reason}")
        case _:
            return StorageUnavailable(f"the storage does not give {key!r}: {reason}")


def _reason(error: BaseException) -> str:
    """The first line: obstore puts a dump of its internals below it."""
    return str(error).partition("\n")[0].rstrip(" .")
