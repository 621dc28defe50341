"""The storage on a directory and on an S3 that the tests themselves serve."""

import contextlib
import os
import resource
import socket
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from images_service.actors import service
from images_service.adapters import open_resources
from images_service.adapters.formats import MEDIA_TYPES
from images_service.adapters.storage import ObjectStorage, open_store
from images_service.errors import BadKey, MissingSource, SourceTooLarge, StorageRefused, StorageUnavailable
from images_service.settings import ImagesSettings
from jobkit.errors import SettingsError, TransientError


def open_storage(location: str | Path, max_bytes: int = 1_000_000) -> ObjectStorage:
    return ObjectStorage(open_store(str(location)), max_bytes=max_bytes, output_prefix="out")


class Bucket(BaseHTTPRequestHandler):
    """As much of S3 as reading and writing whole objects takes."""

    server: "S3"

    def do_GET(self) -> None:
        data = self.server.objects.get(self.path)
        if self.server.status != 200:
            self.answer(self.server.status, f"<Error><Code>{self.server.code}</Code></Error>".encode())
        elif data is None:
            self.answer(404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            self.answer(200, data)

    def do_PUT(self) -> None:
        self.server.headers = self.headers
        self.server.objects[self.path] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, b"")

    def answer(self, status: int, data: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"1"')
        self.send_header("Last-Modified", "Mon, 05 Oct 2026 10:00:00 GMT")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class S3(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Bucket)
        self.objects: dict[str, bytes] = {}
        self.status, self.code = 200, "AccessDenied"
        self.headers = Message()  #: Of the last object that was written.


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    server = S3()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_added_can_be_read_again(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    key = storage.add(b"pixels", ".png")
    assert storage.read(key) == b"pixels"
    assert storage.add(b"pixels", ".png") == key
    assert storage.add(b"others", ".png") != key


def test_s3_is_read_and_written_by_url(s3: S3) -> None:
    storage = open_storage("s3://pictures/site")
    s3.objects["/pictures/site/photos/cat.jpg"] = b"cat"
    assert storage.read("photos/cat.jpg") == b"cat"
    key = storage.add(b"pixels", ".png")
    assert s3.objects[f"/pictures/site/{key}"] == b"pixels"


def test_a_missing_object_in_s3_is_permanent(s3: S3) -> None:
    with pytest.raises(MissingSource, match=r"holds no 'photos/cat\.jpg'"):
        open_storage("s3://pictures").read("photos/cat.jpg")


def test_an_object_above_the_limit_is_refused_in_s3_too(s3: S3) -> None:
    s3.objects["/pictures/cat.jpg"] = bytes(11)
    with pytest.raises(SourceTooLarge, match="11 bytes"):
        open_storage("s3://pictures", max_bytes=10).read("cat.jpg")


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (500, "InternalError", StorageUnavailable),
        (403, "SignatureDoesNotMatch", StorageUnavailable),
        (404, "NoSuchBucket", StorageUnavailable),
        (403, "AccessDenied", StorageRefused),  # also of a key that is not there, to whom may not list the bucket
        (400, "KeyTooLongError", BadKey),
    ],
)
def test_a_verdict_on_one_key_is_told_from_an_outage(s3: S3, status: int, code: str, failure: type[Exception]) -> None:
    s3.status, s3.code = status, code
    with pytest.raises(failure) as caught:
        open_storage("s3://pictures").read("cat.jpg")
    assert type(caught.value) is failure
    assert isinstance(caught.value, TransientError) == (failure is not BadKey)
    assert "\n" not in str(caught.value)


def test_only_an_outage_opens_the_breaker() -> None:
    breaker = service.actors["process_image"].breaker
    assert breaker is not None
    assert breaker.trips(StorageUnavailable("down"))
    assert not any(breaker.trips(error("one key")) for error in (StorageRefused, BadKey, MissingSource))


@pytest.mark.parametrize("key", ["n" * 300 + ".jpg", "plain/below.jpg", "pipe", "socket"])
def test_a_key_that_no_file_can_have_is_permanent_and_hangs_nothing(tmp_path: Path, key: str) -> None:
    (tmp_path / "plain").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    with contextlib.chdir(tmp_path), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(BadKey):
            open_storage(tmp_path).read(key)


def test_a_folder_that_is_gone_is_an_outage_and_not_a_missing_source(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "mount")
    (tmp_path / "mount").rmdir()
    with pytest.raises(StorageUnavailable):
        storage.read("cat.jpg")


def test_an_output_says_what_it_is_and_how_long_it_may_be_kept(s3: S3) -> None:
    storage = ObjectStorage(
        open_store("s3://pictures"), max_bytes=100, output_prefix="out", cache_control="max-age=60, immutable"
    )
    for suffix, kind in MEDIA_TYPES.items():
        storage.add(b"pixels", suffix)
        assert (s3.headers["Content-Type"], s3.headers["Cache-Control"]) == (kind, "max-age=60, immutable")
    open_storage("s3://pictures").add(b"pixels", ".png")
    assert (s3.headers["Content-Type"], s3.headers["Cache-Control"]) == ("image/png", None)


def test_a_storage_that_does_not_answer_is_tried_again_later(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # nothing listens there
    with pytest.raises(StorageUnavailable, match="did not take"):
        open_storage("s3://pictures").add(b"pixels", ".png")


def test_opening_a_remote_storage_asks_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with open_resources(ImagesSettings(storage_url="s3://pictures")):
        pass


def test_a_write_that_fails_leaves_no_part_behind_and_is_tried_again(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, hard))  # the kernel fails a write midway, as on a full disk
    try:
        with pytest.raises(StorageUnavailable, match="did not take"):
            storage.add(bytes(5_000_000), ".tiff")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_key_never_leaves_the_storage(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with pytest.raises(BadKey):
        open_storage(tmp_path / "inside").read("../secret")


@pytest.mark.parametrize("spelling", ["{}/a b/images", "file://{}/a%20b/images", "file://localhost{}/a%20b/images"])
def test_a_directory_may_be_a_path_or_a_url_and_is_made(tmp_path: Path, spelling: str) -> None:
    open_storage(spelling.format(tmp_path)).add(b"pixels", ".png")
    assert (tmp_path / "a b" / "images" / "out").is_dir()


def test_a_relative_directory_is_below_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    open_storage("var/images").add(b"pixels", ".png")
    assert (tmp_path / "var" / "images" / "out").is_dir()


@pytest.mark.parametrize("location", ["bogus://pictures", "file://var/images", "s3://"])
def test_a_storage_of_no_known_kind_is_refused_with_its_variable(location: str) -> None:
    with pytest.raises(SettingsError, match=f"IMAGES_STORAGE_URL: cannot open '{location}'"):
        open_storage(location)


def test_a_storage_that_is_a_file_is_refused_with_its_variable(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"")
    with pytest.raises(SettingsError, match="IMAGES_STORAGE_URL"):
        open_storage(tmp_path / "images")


def test_a_directory_that_cannot_be_written_is_refused_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as the superuser, who may write anywhere
    with pytest.raises(SettingsError, match=r"IMAGES_STORAGE_URL: .* may not write"):
        open_storage(tmp_path)


def test_settings_come_from_variables_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGES_STORAGE_URL", "s3://pictures/site")
    monkeypatch.setenv("IMAGES_MAX_PIXELS", "1000")
    monkeypatch.setenv("IMAGES_OUTPUT_PREFIX", "made/here")
    settings = ImagesSettings.load()
    assert (settings.storage_url, settings.max_pixels) == ("s3://pictures/site", 1000)
    assert settings.output_prefix == "made/here"


@pytest.mark.parametrize("prefix", ["/absolute", "a/../b", "a//b"])
def test_an_output_prefix_outside_the_storage_is_refused_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv("IMAGES_OUTPUT_PREFIX", prefix)
    with pytest.raises(SettingsError, match="IMAGES_OUTPUT_PREFIX: must be a relative path"):
        ImagesSettings.load()
