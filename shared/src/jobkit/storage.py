"""What a failure of an object storage, or of a folder in its place, says: about one key, or about the storage.

Needs ``obstore``, which the services that have a storage depend on.
"""

import errno
import re
import stat
from enum import Enum, auto
from pathlib import Path
from typing import Final

from obstore.exceptions import (
    InvalidPathError,
    NotFoundError,
    NotSupportedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from obstore.store import LocalStore, ObjectStore


class Trouble(Enum):
    """What is wrong. Only ``OUTAGE``, ``FULL`` and ``NO_STORAGE`` concern the storage; the rest is about one key."""

    MISSING = auto()  #: There is no object under that key.
    BAD_KEY = auto()  #: No object can have that key here, or what has it is no file.
    FORBIDDEN = auto()  #: Not for us. S3 also says so of a missing key, to whom may not list the bucket.
    NO_STORAGE = auto()  #: The bucket or the folder itself is not there.
    FULL = auto()  #: It has no room.
    OUTAGE = auto()  #: It does not answer, not in time or not as it should, or takes our login no more.


#: Codes of S3, and of servers that speak it, for keys that they never take.
_BAD_KEYS: Final = frozenset({"KeyTooLongError", "InvalidURI", "InvalidObjectName", "XMinioInvalidObjectName"})

#: Codes that are about who we are and not about a key.
_BAD_LOGINS: Final = frozenset(
    {
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired"),
        *("RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "AllAccessDisabled", "AccountProblem"),
        *("InvalidClientTokenId", "NotSignedUp", "InvalidSecurity", "AuthenticationFailed"),
    }
)

_FULL: Final = frozenset(
    {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
)

_NO_STORAGE: Final = frozenset({"NoSuchBucket", "ContainerNotFound"})

_BY_ERRNO: Final = {
    errno.ENOENT: Trouble.MISSING,
    **dict.fromkeys(
        (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL, errno.EILSEQ), Trouble.BAD_KEY
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Trouble.FORBIDDEN),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), Trouble.FULL),
}

_ERRNO: Final = re.compile(r"\(os error (\d+)\)")
_CODE: Final = re.compile(r"<Code>(\w+)</Code>")


def trouble_of(error: BaseException, store: ObjectStore | None = None) -> Trouble:
    """Return what is wrong when obstore or the operating system raises ``error``.

    Args:
        error: Of a call for one key. A ``ValueError`` says that the key cannot be one.
        store: Tells a missing folder from a missing file in it.
    """
    text = str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    if code in _NO_STORAGE:
        return Trouble.NO_STORAGE
    if code in _FULL or "507 Insufficient Storage" in text:
        return Trouble.FULL
    if code in _BAD_LOGINS or isinstance(error, UnauthenticatedError):
        return Trouble.OUTAGE
    if isinstance(error, FileNotFoundError | NotFoundError):
        folder = folder_of(store)
        return Trouble.NO_STORAGE if folder is not None and not folder.is_dir() else Trouble.MISSING
    if isinstance(error, InvalidPathError | NotSupportedError | ValueError) or code in _BAD_KEYS:
        return Trouble.BAD_KEY
    if isinstance(error, PermissionDeniedError | PermissionError):
        return Trouble.FORBIDDEN
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (found := _ERRNO.search(_first_line(text))):
        number = int(found[1])
    return _BY_ERRNO.get(number or 0, Trouble.OUTAGE)


def refuse_special_file(store: ObjectStore, key: str) -> None:
    """Raise ``ValueError`` if a local folder has something else than a file under ``key``.

    To open a pipe without a writer, or some devices, takes for ever, and no interrupt reaches it.
    """
    folder = folder_of(store)
    if folder is None:
        return
    try:
        mode = (folder / key).stat().st_mode
    except (OSError, ValueError):
        return  # whoever opens it will be told
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ValueError(f"{key!r} is no file but a {_kind(mode)}")


def folder_of(store: ObjectStore | None) -> Path | None:
    """Return the folder of a local storage; None of any other."""
    if not isinstance(store, LocalStore):
        return None
    return Path(store.prefix) if store.prefix else Path("/")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "special file")


def _first_line(text: str) -> str:
    # Below it, obstore dumps its internals.
    return text.partition("\n")[0]
