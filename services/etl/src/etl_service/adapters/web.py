"""Sources over HTTP, from hosts that the operator has named."""

from collections.abc import Callable, Collection
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import httpx

from etl_service.adapters.packed import ENCODINGS, Truncated, decode
from etl_service.errors import (
    SourceForbidden,
    SourceMissing,
    SourceTooLarge,
    SourceUnavailable,
    SourceUnreadable,
)

#: A source behind more redirects than this is a loop or a trap.
MAX_REDIRECTS = 5

#: Answers of the 400s that pass: request timeout, too early, too many requests (RFC 9110, RFC 8470, RFC 6585).
_PASSING = frozenset({408, 425, 429})


#: Seconds. A longer ``Retry-After`` is the same as this one: the settings cap it lower still.
_LONGEST_WAIT = 1e9


class Web(Protocol):
    """What the handlers need of the web."""

    def download(self, url: str, to: Path, *, limit: int) -> str | None:
        """Copy what a URL holds to a local file, and return the charset that the server names, if any.

        Raises:
            SourceForbidden: the URL, or one that it redirects to, is not on an allowed host.
            SourceMissing: the server answers that it has no such page for us, or redirects without end.
            SourceTooLarge: it has more than ``limit`` bytes, before or after its Content-Encoding is undone.
            SourceUnreadable: its Content-Encoding is unknown, or is not what it is encoded with.
            SourceUnavailable: the server is down, slow, busy, or stopped in the middle. ``retry_after`` is the wait
                that it asks for.
        """


class AllowedHosts:
    """``Web`` with an allow-list of ``host`` (on its scheme's own port) and ``host:port``.

    Args:
        connect: A new client for each download. A shared one could be left locked by a job that is interrupted in it.
        hosts: The list.
    """

    def __init__(self, connect: Callable[[], httpx.Client], hosts: Collection[str]) -> None:
        self._connect = connect
        self._hosts = frozenset(hosts)

    def download(self, url: str, to: Path, *, limit: int) -> str | None:
        """See ``Web``."""
        try:
            with self._connect() as client:
                return self._follow(client, url, to, limit)
        except httpx.InvalidURL as error:
            raise SourceForbidden(f"the source is not a URL: {error}") from error
        except httpx.HTTPError as error:
            raise SourceUnavailable(f"{_shown(url)} did not answer in full: {type(error).__name__} {error}") from error

    def _follow(self, client: httpx.Client, url: str, to: Path, limit: int) -> str | None:
        request = client.build_request("GET", url, headers={"Accept-Encoding": "gzip, deflate, zstd"})
        for _ in range(MAX_REDIRECTS + 1):
            self._allow(request.url)
            # Redirects are followed here, so that each of them meets the allow-list.
            response = client.send(request, stream=True, follow_redirects=False)
            try:
                if response.next_request is None:
                    self._store(response, to, limit)
                    return response.charset_encoding
                request = response.next_request
            finally:
                response.close()
        raise SourceMissing(f"{_shown(url)} redirects more than {MAX_REDIRECTS} times")

    def _allow(self, url: httpx.URL) -> None:
        host = f"[{url.host}]" if ":" in url.host else url.host
        named = host if url.port is None else f"{host}:{url.port}"
        if url.scheme not in {"http", "https"} or named not in self._hosts:
            allowed = ", ".join(sorted(self._hosts)) or "none"
            raise SourceForbidden(f"{url.scheme}://{named} is not in ETL_HTTP_HOSTS (allowed: {allowed})")

    @staticmethod
    def _store(response: httpx.Response, to: Path, limit: int) -> None:
        status, url = response.status_code, _shown(response.url)
        if status >= 500 or status in _PASSING:
            raise SourceUnavailable(f"{url} answered {status}", retry_after=_retry_after(response))
        if status != 200:
            raise SourceMissing(f"{url} answered {status}")
        encodings = [name.strip().lower() for name in response.headers.get("Content-Encoding", "").split(",")]
        encodings = [name for name in encodings if name not in {"", "identity"}]
        if unknown := [name for name in encodings if name not in ENCODINGS]:
            raise SourceUnreadable(f"{url} is sent with the Content-Encoding {unknown[0]!r}, which is not known")
        size = 0
        with to.open("wb") as file:
            # The raw bytes: httpx stops at the end of the first gzip member, and takes a missing end for one.
            # What a transport has read already (that of httpx's own mocks) is decoded, too.
            raw = [response.content] if response.is_stream_consumed else response.iter_raw()
            for chunk in raw:
                size += len(chunk)
                if size > limit:
                    raise SourceTooLarge(f"{url} has more than the {limit} bytes that ETL_MAX_BYTES allows")
                file.write(chunk)
        try:
            for name in reversed(encodings):
                decode(to, ENCODINGS[name], limit=limit)
        except Truncated as error:
            raise SourceUnavailable(f"{url} stopped in the middle of its {encodings[-1]} data") from error
        except (SourceTooLarge, SourceUnreadable) as error:
            raise type(error)(f"{url}: {error}") from error


def _retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of a ``Retry-After`` header, which holds a number or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return min(float(value), _LONGEST_WAIT)
    then, now = _moment(value), _moment(response.headers.get("Date", "")) or datetime.now(UTC)
    return None if then is None else max(0.0, (then - now).total_seconds())


def _moment(value: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _shown(url: str | httpx.URL) -> str:
    """Scheme, host and path: a query may hold a signature, and the user's part a password."""
    parts = urlsplit(str(url))
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
