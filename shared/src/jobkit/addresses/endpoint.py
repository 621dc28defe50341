"""The addresses of what is told about jobs: collectors, error reports, the management API."""

from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

_WEB: Final = {"http", "https"}


def http_url(text: str) -> str:
    """Return the address of an HTTP server, without a slash at its end.

    Raises:
        ValueError: It is none, or holds more than scheme, login, host, port and path.
    """
    try:
        url = urlsplit(text)
        usable = url.scheme in _WEB and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or " " in text:
        raise ValueError("must be http://host:port or https://host:port, with the scheme")
    if url.query or url.fragment:
        raise ValueError("must end after the path: percent-encode special characters in user and password")
    return text.rstrip("/")


def check_dsn(text: str) -> None:
    """Raise ``ValueError`` if ``text`` is no DSN of Sentry; needs its client, which a producer comes without."""
    with suppress(ModuleNotFoundError):
        from sentry_sdk.utils import BadDsn, Dsn

        try:
            Dsn(text)
        except (BadDsn, ValueError) as error:
            raise ValueError(f"must be a DSN, https://key@host/project ({_reason(error, text)})") from None


def _reason(error: Exception, text: str) -> str:
    words = str(error).partition("\n")[0]
    return "it cannot be read" if not words or text in words else words
