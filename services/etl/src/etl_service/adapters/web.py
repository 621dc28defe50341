"""Sources over HTTP, from hosts that the operator has named."""

from collections.abc import Collection
from pathlib import Path
from typing import Protocol

import httpx

from etl_service.errors import SourceForbidden, SourceMissing, SourceTooLarge, SourceUnavailable

#: A source behind more redirects than this is a loop or a trap.
MAX_REDIRECTS = 5

#: Answers of the 400s that pass: request timeout, too early, too many requests (RFC 9110, RFC 8470, RFC 6585).
_PASSING = frozenset({408, 425, 429})


class Web(Protocol):
    """What the handlers need of the web."""

    def download(self, url: str, to: Path, *, limit: int) -> None:
        """Copy what a URL holds to a local file.

        Raises:
            SourceForbidden: the URL, or one that it redirects to, is not on an allowed host.
            SourceMissing: the server answers that it has no such page for us, or redirects without end.
            SourceTooLarge: it has more than ``limit`` bytes after decompression.
            SourceUnavailable: the server is down, slow, busy, or stopped in the middle.
        """


class AllowedHosts:
    """``Web`` with an allow-list of ``host`` (on its scheme's own port) and ``host:port``."""

    def __init__(self, client: httpx.Client, hosts: Collection[str]) -> None:
        self._client = client
        self._hosts = frozenset(hosts)

    def download(self, url: str, to: Path, *, limit: int) -> None:
        """See ``Web``."""
        try:
            request: httpx.Request | None = self._client.build_request("GET", url)
            for _ in range(MAX_REDIRECTS + 1):
                if request is None:
                    break
                self._allow(request.url)
                # Redirects are followed here, so that each of them meets the allow-list.
                response = self._client.send(request, stream=True, follow_redirects=False)
                try:
                    request = response.next_request
                    if request is None:
                        self._store(response, to, limit)
                        return
                finally:
                    response.close()
        except httpx.InvalidURL as error:
            raise SourceForbidden(f"{url} is not a URL: {error}") from error
        except httpx.HTTPError as error:
            raise SourceUnavailable(f"{url} did not answer in full: {type(error).__name__} {error}") from error
        raise SourceMissing(f"{url} redirects more than {MAX_REDIRECTS} times")

    def _allow(self, url: httpx.URL) -> None:
        host = f"[{url.host}]" if ":" in url.host else url.host
        named = host if url.port is None else f"{host}:{url.port}"
        if url.scheme not in {"http", "https"} or named not in self._hosts:
            allowed = ", ".join(sorted(self._hosts)) or "none"
            raise SourceForbidden(f"{url.scheme}://{named} is not in ETL_HTTP_HOSTS (allowed: {allowed})")

    @staticmethod
    def _store(response: httpx.Response, to: Path, limit: int) -> None:
        status, url = response.status_code, response.url
        if status >= 500 or status in _PASSING:
            raise SourceUnavailable(f"{url} answered {status}")
        if status != 200:
            raise SourceMissing(f"{url} answered {status}")
        size = 0
        with to.open("wb") as file:
            for chunk in response.iter_bytes():
                size += len(chunk)
                if size > limit:
                    raise SourceTooLarge(f"{url} has more than the {limit} bytes that ETL_MAX_BYTES allows")
                file.write(chunk)
