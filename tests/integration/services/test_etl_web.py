import gzip
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.adapters.web import AllowedHosts
from etl_service.errors import SourceForbidden, SourceMissing, SourceTooLarge, SourceUnavailable, SourceUnreadable


class Pages(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path.strip("/").split("/"):
            case ["status", code]:
                self.answer(int(code), b"no")
            case ["redirect", *target]:
                self.send_response(302)
                self.send_header("Location", "/".join(target) if target[0].endswith(":") else "/" + "/".join(target))
                self.end_headers()
            case ["loop"]:
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.end_headers()
            case ["bomb"]:
                self.answer(200, gzip.compress(b"0" * 1_000_000), ("Content-Encoding", "gzip"))
            case ["cut"]:
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"short")
            case ["encoded" | "stops" as how, *codings]:
                body = packed(*codings)
                self.answer(200, body[:-5] if how == "stops" else body, ("Content-Encoding", ", ".join(codings)))
            case ["charset", charset]:
                self.answer(200, b"id\n", ("Content-Type", f"text/csv; charset={charset}"))
            case ["later", code, *when]:
                self.answer(int(code), b"", ("Retry-After", " ".join(when)))
            case ["silent"]:
                self.server.finished.wait(5)  # type: ignore[attr-defined]  # set by the fixture
            case _:
                self.answer(200, b"id\n1\n")

    def answer(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return "Thu, 01 Oct 2026 08:00:00 GMT"

    def log_message(self, *_: object) -> None: ...


ROWS = b"id,name\n" + b"".join(b"%d,n%d\n" % (n, n) for n in range(2000))
HALF = len(ROWS) // 2


def packed(*codings: str) -> bytes:
    body = ROWS
    for coding in codings:
        match coding:
            case "deflate":
                body = zlib.compress(body)
            case "zstd":
                body = pa.compress(body, codec="zstd", asbytes=True)
            case _:
                body = gzip.compress(body[:HALF]) + gzip.compress(body[HALF:])
    return body


def brief_client() -> httpx.Client:
    return httpx.Client(timeout=0.3, trust_env=False)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as http:
        http.finished = threading.Event()  # type: ignore[attr-defined]  # lets a silent page end with the test
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.finished.set()  # type: ignore[attr-defined]  # the same
        http.shutdown()
        thread.join()


@pytest.fixture
def web(server: str) -> AllowedHosts:
    return AllowedHosts(brief_client, [server])


def test_a_page_of_an_allowed_host_is_copied(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    web.download(f"http://{server}/table.csv", tmp_path / "x", limit=5)
    assert (tmp_path / "x").read_bytes() == b"id\n1\n"


def test_redirects_within_the_allowed_hosts_are_followed(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    web.download(f"http://{server}/redirect/redirect/table.csv", tmp_path / "x", limit=5)
    assert (tmp_path / "x").read_bytes() == b"id\n1\n"


@pytest.mark.parametrize(
    "url", ["http://localhost:1/x", "http://127.0.0.1/x", "https://example.com/x", "ftp://127.0.0.1/x"]
)
def test_another_host_or_port_is_refused(web: AllowedHosts, url: str, tmp_path: Path) -> None:
    with pytest.raises(SourceForbidden, match="not in ETL_HTTP_HOSTS"):
        web.download(url, tmp_path / "x", limit=5)


@pytest.mark.parametrize("target", ["http://localhost:1/secret", "file:///etc/hostname"])
def test_a_redirect_out_of_the_allowed_hosts_is_refused(
    web: AllowedHosts, server: str, target: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceForbidden):
        web.download(f"http://{server}/redirect/{target}", tmp_path / "x", limit=5)


def test_without_allowed_hosts_nothing_is_fetched(server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceForbidden, match="allowed: none"):
        AllowedHosts(httpx.Client, ()).download(f"http://{server}/", tmp_path / "x", limit=5)


def test_a_redirect_without_end_is_permanent(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="redirects more than 5 times"):
        web.download(f"http://{server}/loop", tmp_path / "x", limit=5)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 204])
def test_an_answer_that_stays_is_permanent(web: AllowedHosts, server: str, status: int, tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match=f"answered {status}"):
        web.download(f"http://{server}/status/{status}", tmp_path / "x", limit=5)


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_an_answer_that_passes_is_transient(web: AllowedHosts, server: str, status: int, tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable, match=f"answered {status}"):
        web.download(f"http://{server}/status/{status}", tmp_path / "x", limit=5)


@pytest.mark.parametrize("page", ["cut", "silent"])
def test_a_server_that_stops_or_stays_silent_is_transient(
    web: AllowedHosts, server: str, page: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable, match="did not answer in full"):
        web.download(f"http://{server}/{page}", tmp_path / "x", limit=1000)


def test_a_server_that_is_down_is_transient(tmp_path: Path) -> None:
    with pytest.raises(SourceUnavailable):
        AllowedHosts(brief_client, ["127.0.0.1:1"]).download("http://127.0.0.1:1/", tmp_path / "x", limit=5)


@pytest.mark.parametrize("codings", ["gzip", "x-gzip", "deflate", "zstd", "deflate/gzip"])
def test_a_body_is_decoded_to_its_last_byte(web: AllowedHosts, server: str, codings: str, tmp_path: Path) -> None:
    web.download(f"http://{server}/encoded/{codings}", tmp_path / "x", limit=len(ROWS))
    assert (tmp_path / "x").read_bytes() == ROWS


@pytest.mark.parametrize("codings", ["gzip", "deflate", "zstd", "deflate/gzip"])
def test_a_body_that_stops_in_the_middle_is_transient(
    web: AllowedHosts, server: str, codings: str, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable, match="stopped in the middle"):
        web.download(f"http://{server}/stops/{codings}", tmp_path / "x", limit=len(ROWS))


def test_a_coding_that_is_not_known_is_permanent(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="Content-Encoding 'br', which is not known"):
        web.download(f"http://{server}/encoded/br", tmp_path / "x", limit=len(ROWS))


@pytest.mark.parametrize(
    ("when", "seconds"),
    [
        ("3600", 3600),
        ("Thu,/01/Oct/2026/08:05:00/GMT", 300),
        ("Thu,/01/Oct/2026/07:00:00/GMT", 0),
        ("soon", None),
        ("9" * 400, 1e9),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_a_server_asks_for_is_kept(
    web: AllowedHosts, server: str, status: int, when: str, seconds: float | None, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable) as caught:
        web.download(f"http://{server}/later/{status}/{when}", tmp_path / "x", limit=5)
    asked = caught.value.retry_after
    assert (asked.total_seconds() if asked is not None else None) == seconds
    assert caught.value.delay == (None if seconds is None else 1000 * seconds)


def test_the_charset_of_the_server_is_handed_on(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    assert web.download(f"http://{server}/charset/windows-1252", tmp_path / "x", limit=5) == "windows-1252"
    assert web.download(f"http://{server}/table.csv", tmp_path / "x", limit=5) is None


def test_the_limit_counts_what_is_unpacked(web: AllowedHosts, server: str, tmp_path: Path) -> None:
    with pytest.raises(SourceTooLarge, match="50000 bytes that ETL_MAX_BYTES allows"):
        web.download(f"http://{server}/bomb", tmp_path / "x", limit=50_000)
