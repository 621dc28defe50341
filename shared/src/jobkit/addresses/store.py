"""The address of the job store: what is refused before anything connects, in one line that shows no password."""

import os
import re
from contextlib import suppress
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

_FORM: Final = "redis://user:password@host:port/database (or rediss://, unix:///path?db=0)"
_ENCODE: Final = "in user and password, write / as %2F, # as %23, ? as %3F, @ as %40, % as %25 and a space as %20"

_LOGIN: Final = frozenset({"username", "password", "db"})
_TLS: Final = frozenset(
    {
        *("ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname"),
        *("ssl_keyfile", "ssl_password"),
    }
)
#: The options of each kind of address. redis-py knows many more: some change what answers look like or how long a call
#: takes, and the store depends on both.
OPTIONS: Final = {"redis": _LOGIN, "rediss": _LOGIN | _TLS, "unix": _LOGIN}

_FILES: Final = frozenset({"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"})

_UNUSABLE: Final = re.compile(r"[\s\x00-\x1f\x7f\"'<>\\^`{|}]")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-f:.%]*:[0-9a-f:.%]*")


def store_url(text: str) -> str:
    """Return the address in ``text``, without white space around it.

    Raises:
        ValueError: It is none, or names another place than it seems to. The text is one line without any part of the
            address that could be a password.
    """
    text = text.strip()
    scheme, separator, _rest = text.partition("://")
    if "sentinel" in scheme:
        raise ValueError("names Sentinels, which are not asked: give it the address that leads to their primary")
    if not separator or scheme not in OPTIONS:
        raise ValueError(f"must be {_FORM}")
    if _UNUSABLE.search(text) or _STRAY_PERCENT.search(text) or "#" in text:
        raise ValueError(f"holds a character that must be percent-encoded: {_ENCODE}")
    parts = urlsplit(text)
    _check_place(parts)
    _check_options(parts)
    with suppress(ModuleNotFoundError):  # a producer comes without: it reads no records
        _check_by_library(text)
    return text


def driver() -> dict[str, Any]:  # Any: arguments of redis-py, each of another type
    """Return the arguments that tell a connection of redis-py its own version.

    Each connection looks that up otherwise, in the files of the package. That is a quarter of a millisecond, and a
    worker process that does so writes to 2 MB that it shares with others until then.
    """
    import redis

    try:
        from redis.driver_info import DriverInfo
    except ImportError:  # before redis-py 7.1, which looked once
        return {}
    return {"driver_info": DriverInfo(lib_version=redis.__version__)}


def _check_place(parts: SplitResult) -> None:
    try:
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
    except ValueError:  # it would quote what it takes for a port
        raise ValueError(f"has no usable port: it must be {_FORM}; {_ENCODE}") from None
    if parts.scheme == "unix":
        if parts.netloc.rpartition("@")[2] or not parts.path.strip("/"):
            raise ValueError("must name a socket by its whole path: unix:///run/redis.sock?db=0")
        return
    if not host or not _HOST.fullmatch(host):
        raise ValueError(f"names no usable host: it must be one {_FORM}; {_ENCODE}")
    if user and password is None:
        raise ValueError("has a user without a password: a password alone is written redis://:password@host")
    if port == 0:
        raise ValueError("has port 0: Redis listens on 6379")
    if not re.fullmatch(r"/?|/[0-9]{1,5}", parts.path):
        raise ValueError(f"must end in the number of a database, such as /0, or after the port; {_ENCODE}")


def _check_options(parts: SplitResult) -> None:
    allowed, seen = OPTIONS[parts.scheme], set[str]()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in {"socket_timeout", "socket_connect_timeout", "timeout"}:
            raise ValueError(f"has the option {name}: set JOBKIT_STORE_TIMEOUT_SECONDS instead")
        if name not in allowed:
            shown = f"the unknown option {name!r}" if name.isidentifier() else "options that cannot be read"
            raise ValueError(f"has {shown}; known with {parts.scheme}:// are {', '.join(sorted(allowed))}")
        if name in seen or not value:
            raise ValueError(f"has the option {name} {'twice' if name in seen else 'without a value'}")
        seen.add(name)
        if name in _FILES and not os.access(value, os.R_OK):
            raise ValueError(f"has the option {name}, whose file {value!r} cannot be read")
        if name == "db" and (not re.fullmatch(r"[0-9]{1,5}", value) or parts.path.strip("/").isdecimal()):
            raise ValueError("must name one database, by a number: /0 after the port, or db=0")


def _check_by_library(text: str) -> None:
    from redis import ConnectionPool

    try:
        ConnectionPool.from_url(text, **driver()).make_connection()  # connects to nothing
    except Exception as error:  # of many types, documented nowhere
        # A complaint about a value may quote it, and ssl_password is one.
        reason = type(error).__name__ if "password" in text else str(error).partition("\n")[0]
        raise ValueError(f"has an option that cannot be used: {reason}") from None
