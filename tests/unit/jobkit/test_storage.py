"""Whose fault is it: a key's, a permission's, or the storage's?"""

import errno
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
import pytest
from obstore.store import LocalStore, MemoryStore, ObjectStore, S3Store

from jobkit.storage import Trouble, refuse_special_file, trouble_of


def trouble(store: ObjectStore, key: str) -> Trouble:
    with pytest.raises(Exception) as caught:  # noqa: PT011  which one is what is asked
        bytes(obstore.get(store, key).bytes())
    return trouble_of(caught.value, store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("nothing", Trouble.MISSING),
        ("no/folder/either", Trouble.MISSING),
        ("folder", Trouble.MISSING),
        ("a" * 300, Trouble.BAD_KEY),
        ("a/" + "b" * 5_000, Trouble.BAD_KEY),
        ("file/below", Trouble.BAD_KEY),
        ("loop", Trouble.BAD_KEY),
        ("../outside", Trouble.BAD_KEY),
        ("a//b", Trouble.BAD_KEY),
        ("a\0b", Trouble.BAD_KEY),
        ("\udcff", Trouble.BAD_KEY),
    ],
)
def test_a_folder(folder: Path, key: str, kind: Trouble) -> None:
    assert trouble(LocalStore(folder), key) is kind


def test_a_folder_that_is_not_there_is_no_missing_file(folder: Path) -> None:
    store = LocalStore(folder)
    shutil.rmtree(folder)
    assert trouble(store, "nothing") is Trouble.NO_STORAGE
    assert trouble(MemoryStore(), "nothing") is Trouble.MISSING


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EACCES, Trouble.FORBIDDEN),
        (errno.ENOSPC, Trouble.FULL),
        (errno.EIO, Trouble.OUTAGE),
        (errno.ESTALE, Trouble.OUTAGE),
        (errno.EROFS, Trouble.OUTAGE),
    ],
)
def test_the_operating_systems_numbers(number: int, kind: Trouble) -> None:
    assert trouble_of(OSError(number, os.strerror(number))) is kind
    assert trouble_of(obstore.exceptions.GenericError(f"Unable to open file: x (os error {number})\n\nDebug")) is kind


@pytest.fixture(scope="module")
def bucket() -> Iterator[S3Store]:
    """Answers with the status and the code that a key names."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, code = self.path.rsplit("/", 1)[1].split("-")
            body = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode()
            self.send_response(int(status))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002  its name there

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield S3Store(
            "bucket",
            endpoint=f"http://127.0.0.1:{server.server_port}",
            access_key_id="id",
            secret_access_key="secret",
            region="us-east-1",
            client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )
        server.shutdown()
        thread.join(5)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("404-NoSuchKey", Trouble.MISSING),
        ("404-NoSuchBucket", Trouble.NO_STORAGE),
        ("403-AccessDenied", Trouble.FORBIDDEN),
        ("403-InvalidAccessKeyId", Trouble.OUTAGE),
        ("403-SignatureDoesNotMatch", Trouble.OUTAGE),
        ("401-AccessDenied", Trouble.OUTAGE),
        ("400-ExpiredToken", Trouble.OUTAGE),
        ("400-KeyTooLongError", Trouble.BAD_KEY),
        ("400-RequestTimeout", Trouble.OUTAGE),
        ("500-InternalError", Trouble.OUTAGE),
        ("503-SlowDown", Trouble.OUTAGE),
        ("507-x", Trouble.FULL),
        ("403-QuotaExceeded", Trouble.FULL),
    ],
)
def test_a_bucket(bucket: S3Store, answer: str, kind: Trouble) -> None:
    assert trouble(bucket, answer) is kind


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    store = S3Store(
        "bucket",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id="id",
        secret_access_key="secret",
        region="us-east-1",
        client_options={"allow_http": True},
        retry_config={"max_retries": 0},
    )
    assert trouble(store, "key") is Trouble.OUTAGE


def test_a_pipe_is_refused_before_it_is_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    (folder / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    for key, kind in {"pipe": "pipe", "device": "device", "socket": "socket"}.items():
        with pytest.raises(ValueError, match=f"'{key}' is no file but a {kind}") as caught:
            refuse_special_file(LocalStore(folder), key)
        assert trouble_of(caught.value) is Trouble.BAD_KEY
    for key in ("file", "folder", "nothing", "a" * 300, "a\0b"):
        refuse_special_file(LocalStore(folder), key)
    refuse_special_file(MemoryStore(), "pipe")
