"""The address of a broker: what is refused before anything connects, in one line that shows no password."""

import re
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pika

#: The options of an address, as pika documents them. Its ``client_properties`` are jobkit's own.
OPTIONS: Final = frozenset(
    {
        *("blocked_connection_timeout", "channel_max", "connection_attempts", "frame_max", "heartbeat", "locale"),
        *("retry_delay", "socket_timeout", "ssl_options", "stack_timeout", "tcp_options"),
    }
)

_FORM: Final = "amqp://user:password@host:port/vhost (or amqps://), several joined by commas"
_ENCODE: Final = "write / as %2F, # as %23, ? as %3F, @ as %40, % as %25, a comma as %2C and a space as %20"

#: Characters that no address holds (RFC 3986), such as kept quotes and what is left of an unexpanded ``${NAME}``.
_UNUSABLE: Final = re.compile(r"[\s\x00-\x1f\x7f\"'<>\\^`{|}]")
_STRAY_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HOST: Final = re.compile(r"[\w.-]+|[0-9a-f:.%]*:[0-9a-f:.%]*")


def broker_urls(text: str) -> tuple[str, ...]:
    """Return the addresses in ``text``, one for each node, without white space around them.

    Raises:
        ValueError: One of them is none, or names another place than it seems to. The text is one line without any
            part of the address that could be a password.
    """
    if not isinstance(text, str):
        raise TypeError(f"the broker's address is {type(text).__name__}, not text: it must be {_FORM}")
    urls = tuple(part.strip() for part in text.split(","))
    for number, url in enumerate(urls, start=1):
        try:
            _check(url)
        except ValueError as error:
            which = f"address {number} of {len(urls)}: " if len(urls) > 1 else ""
            raise ValueError(f"{which}{error}") from None
    return urls


def _check(url: str) -> None:
    if not url:
        raise ValueError(f"the broker's address is empty: it must be {_FORM}")
    if not url.lower().startswith(("amqp://", "amqps://")):
        raise ValueError(f"the broker's address must start with amqp:// or amqps://, without quotes: {_FORM}")
    if unusable := _UNUSABLE.search(url):
        raise ValueError(f"the broker's address holds the character {unusable[0]!r}: percent-encode it or remove it")
    if "#" in url:
        raise ValueError(f"the broker's address holds a raw '#': in user, password and vhost, {_ENCODE}")
    if _STRAY_PERCENT.search(url):
        raise ValueError(f"the broker's address holds a '%' that encodes nothing: in user and password, {_ENCODE}")
    parts = urlsplit(url)
    _check_place(parts)
    _check_options(parts.query)


def _check_place(parts: SplitResult) -> None:
    try:
        host, port, user, password = parts.hostname, parts.port, parts.username, parts.password
    except ValueError:  # it would quote what it takes for a port
        raise ValueError(f"the broker's address has no usable port: in user and password, {_ENCODE}") from None
    if not host or not _HOST.fullmatch(host):
        raise ValueError(
            f"the broker's address names no usable host: it must be {_FORM}; in user and password, {_ENCODE}"
        )
    if port == 0:
        raise ValueError("the broker's address has port 0: RabbitMQ's are 5672, and 5671 with TLS")
    if user is not None and password is None:
        raise ValueError(f"the broker's address has a user without a password: it must be {_FORM}")
    vhost = parts.path.removeprefix("/")
    if "/" in vhost or "@" in vhost:
        raise ValueError(
            "the broker's address has more than one part after the host: a vhost is one part, a / in its name is %2F; "
            f"in user and password, {_ENCODE}"
        )


def _check_options(query: str) -> None:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            known = ", ".join(sorted(OPTIONS))
            shown = f"an unknown option {name!r}" if name.isidentifier() else "options that cannot be read"
            raise ValueError(f"the broker's address has {shown} (known: {known}); in user and password, {_ENCODE}")
        if f"&{query}".count(f"&{name}=") > 1:
            raise ValueError(f"the broker's address has the option {name!r} twice")
        if not value:
            raise ValueError(f"the broker's address has an option that cannot be used, {name}: it is empty")
        try:
            pika.URLParameters(f"amqps://localhost/?{name}={_quoted(query, name)}")
        except Exception as error:  # of many types, documented nowhere
            raise ValueError(
                f"the broker's address has an option that cannot be used, {name}: {_reason(error, value)}"
            ) from None


def _reason(error: Exception, value: str) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    if "password" in value:  # of a key file, in ssl_options
        return type(error).__name__
    return str(error).partition("\n")[0] or type(error).__name__


def _quoted(query: str, name: str) -> str:
    return next(part.partition("=")[2] for part in query.split("&") if part.partition("=")[0] == name)
