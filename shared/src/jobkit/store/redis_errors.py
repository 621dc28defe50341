"""What an error of Redis means: an outage, a refusal that only a person can end, or one record that is none."""

import re
import ssl
from typing import Final
from urllib.parse import urlsplit

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterCrossSlotError,
    ConnectionError,  # noqa: A004  redis-py's own
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
    TimeoutError,  # noqa: A004  redis-py's own
)

from jobkit.addresses import tls
from jobkit.errors import JobkitError, RecordUnreadable, StoreFull, StoreRefused, StoreUnavailable

#: Answers of a server that will do what it was asked once it has loaded, has memory, a disk, replicas or a primary.
#: Source: redis.io, and the names in Redis' own server.c.
_OUTAGES: Final = frozenset(
    {
        *("LOADING", "OOM", "READONLY", "NOREPLICAS", "MISCONF", "MASTERDOWN", "BUSY", "TRYAGAIN", "CLUSTERDOWN"),
        *("NOMASTERLINK", "NOQUORUM", "INPROG", "IOERR", "EXECABORT", "NOSCRIPT", "UNBLOCKED"),
    }
)
#: Of them, those of a server that is no primary any more: its name may lead to another one by now.
_DEMOTED: Final = frozenset({"READONLY", "NOREPLICAS", "MASTERDOWN", "NOMASTERLINK"})

_LOGIN: Final = (AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError)
_CLUSTER: Final = (AskError, ClusterCrossSlotError)

#: Words of a refusal within a script, which bears no code of its own; they differ between versions.
_DENIED: Final = re.compile(r"ACL failure|user executing the script|no permissions")
#: Where in a script that was: of no use to people, and it makes a line of its own for each script.
_PLACE: Final = re.compile(r"[\s.]*script: [0-9a-f]{40}, on @user_script: ?\d+\.?$")
#: What a script fails at whichever record it is given.
_OF_ANY_RECORD: Final = re.compile(r"[Uu]nknown|compiling|not allowed")


def is_lost(error: RedisError) -> bool:
    """Return whether the store should be looked for again, over a new connection."""
    if isinstance(error, (*_LOGIN, ResponseError)):
        return _code(error) in _DEMOTED
    return isinstance(error, ConnectionError | TimeoutError) and _code(error) != "LOADING"


def translate(error: RedisError, url: str) -> JobkitError:
    """Return the error of ours that says in one line what to do, without any password."""
    parts = urlsplit(url)  # the query may hold a password too
    place = f"{parts.netloc.rpartition('@')[2]}{parts.path}"
    where, text = f"Redis at {place}", str(error).removesuffix(".")  # other sentences go on after it
    if isinstance(error, _LOGIN):
        return StoreRefused(f"{where} refused the user or password in JOBKIT_STORE_URL ({text})")
    if isinstance(error, _CLUSTER) or "non local key" in text:
        return StoreRefused(
            f"{where} (JOBKIT_STORE_URL) is a Redis Cluster, which cannot hold job records: {NO_CLUSTER}"
        )
    if isinstance(error, InvalidResponse):
        return StoreRefused(f"what answers at {place} (JOBKIT_STORE_URL) is no Redis: {text}")
    if isinstance(error, NoPermissionError) or _DENIED.search(text):
        text = _PLACE.sub("", text).rstrip(".")
        return StoreRefused(f"{where} (JOBKIT_STORE_URL) does not permit what job records need: {text}. {_PERMIT}")
    if (cause := _tls_error(error)) is not None:
        return _of_tls(cause, f"{where} (JOBKIT_STORE_URL) cannot be reached over TLS")
    if _code(error) == "OOM":
        return StoreFull(f"{where} (JOBKIT_STORE_URL) is full: {text}")
    if not isinstance(error, ResponseError) or _code(error) in _OUTAGES:
        return StoreUnavailable(f"{where} (JOBKIT_STORE_URL) does not take commands: {text}{_hint(text, parts.scheme)}")
    if _code(error) == "WRONGTYPE" or ("user_script:" in text and not _OF_ANY_RECORD.search(text)):
        return RecordUnreadable(f"{where} holds no job record where one belongs: {text}")
    return StoreRefused(f"{where} (JOBKIT_STORE_URL) refuses what job records need: {text}")


_PERMIT: Final = "Give its user the commands and keys of docs/how-to/redis.md"
NO_CLUSTER: Final = "use a Redis without cluster mode (docs/how-to/redis.md)"


def _hint(text: str, scheme: str) -> str:
    """Return what to check if an outage lasts that one side's encryption may be the cause of."""
    if scheme == "rediss" and text.startswith("Timeout connecting"):  # Redis waits for the rest of a command
        return "; if that lasts, check whether that port speaks TLS"
    if scheme == "redis" and ("closed by server" in text or "reset by peer" in text):
        return "; if that lasts, check whether that port wants TLS (rediss://)"
    return ""


def _code(error: RedisError) -> str:
    """Return the first word of the server's answer. redis-py takes it off where it has a class for it."""
    return _CODES.get(type(error).__name__) or str(error).partition(" ")[0]


_CODES: Final = {
    "BusyLoadingError": "LOADING",
    "ClusterDownError": "CLUSTERDOWN",
    "ExecAbortError": "EXECABORT",
    "MasterDownError": "MASTERDOWN",
    "NoScriptError": "NOSCRIPT",
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "TryAgainError": "TRYAGAIN",
}


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    found = error.__cause__ or error.__context__
    return found if isinstance(found, ssl.SSLError) else None


def _of_tls(error: ssl.SSLError, where: str) -> StoreUnavailable:
    words = tls.advice(error, ca="?ssl_ca_certs=/path/ca.pem", plain="Check the port, or use redis://")
    return (StoreRefused if tls.needs_a_person(error) else StoreUnavailable)(f"{where}: {words}")
