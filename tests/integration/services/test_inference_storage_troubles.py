"""What the service makes of a storage that is away, refuses, is not there, or lacks one object."""

import os
import pwd
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from inference_lab import blobs, put, train

from inference_service import actors
from inference_service.adapters.registry import Registry
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import (
    BadDataset,
    StorageForbidden,
    StorageMissing,
    StorageUnavailable,
    UnknownModel,
    UnusableKey,
)
from jobkit.errors import PermanentError, TransientError

X, Y = blobs(60)

NO_BUCKET = (404, "NoSuchBucket")
NO_KEY = (404, "NoSuchKey")
DENIED = (403, "AccessDenied")
BAD_LOGIN = (403, "InvalidAccessKeyId")
TOO_LONG = (400, "KeyTooLongError")
BROKEN = (503, "SlowDown")


class Bucket(NamedTuple):
    storage: ObjectStorage
    answers: Callable[[tuple[int, str]], None]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A server that gives the same answer to everything, in the words of S3."""
    answer = [NO_KEY]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, code = answer[0]
            body = f"<Error><Code>{code}</Code></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_GET  # noqa: N815  # the name that the server asks for

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("inference_service.adapters.storage.RETRIES", 0)
    yield Bucket(open_storage("s3://bucket/prod"), lambda what: answer.__setitem__(0, what))
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (NO_BUCKET, StorageMissing),
        (DENIED, StorageForbidden),
        (BAD_LOGIN, StorageUnavailable),
        (BROKEN, StorageUnavailable),
        (TOO_LONG, UnusableKey),
    ],
)
def test_only_a_key_that_is_not_there_is_an_unknown_model(
    bucket: Bucket, answer: tuple[int, str], error: type[Exception]
) -> None:
    with pytest.raises(UnknownModel):
        Registry(bucket.storage).latest("m")
    bucket.answers(answer)
    with pytest.raises(error) as caught:
        Registry(bucket.storage).latest("m")
    assert type(caught.value) is error
    with pytest.raises(error):
        bucket.storage.put("a", b"1")


def test_a_refused_key_is_retried_and_feeds_no_breaker_and_an_outage_does() -> None:
    for breaker in (actors.STORAGE, actors.TRAINING_STORAGE):
        verdicts = (StorageForbidden("x"), UnusableKey("x"), UnknownModel("x"), BadDataset("x"))
        assert not any(breaker.trips(error) for error in verdicts)
        assert breaker.trips(StorageUnavailable("x"))
        assert breaker.trips(StorageMissing("x"))
    assert issubclass(StorageForbidden, TransientError)
    assert issubclass(UnusableKey, PermanentError)


def test_trainings_and_predictions_have_breakers_of_their_own() -> None:
    breakers = {name: one.breaker.name for name, one in actors.service.actors.items() if one.breaker}
    assert breakers["predict_batch"] == breakers["promote_model"] != breakers["train_model"]
    assert breakers["train_model"] == breakers["remove_old_checkpoints"]


def test_a_folder_that_was_unmounted_is_no_unknown_model_and_is_not_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    storage = open_storage(folder.as_uri())
    folder.rmdir()
    for call in (
        lambda: Registry(storage).latest("m"),
        lambda: storage.put("a/b", b"1"),
        lambda: storage.keys("checkpoints"),
        lambda: train(storage),
    ):
        with pytest.raises(StorageMissing, match="its bucket or folder is not there: create or mount it"):
            call()
    assert not folder.exists()


def test_a_pipe_in_the_place_of_a_data_set_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "d.npz")
    with pytest.raises(UnusableKey, match="is no file but a pipe"):
        train(open_storage(tmp_path.as_uri()))


@contextmanager
def as_nobody() -> Iterator[None]:
    """Be no longer root, who may read everything."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_file_that_we_may_not_read_is_forbidden() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which is for its owner alone
        Path(folder).chmod(0o755)
        storage = open_storage(Path(folder).as_uri())
        put(storage, "d.npz", X, Y)
        Path(folder, "d.npz").chmod(0)
        with as_nobody(), pytest.raises(StorageForbidden, match="it refuses us: check the key, and the permissions"):
            train(storage)


def test_a_name_that_no_file_can_have_is_permanent(tmp_path: Path) -> None:
    with pytest.raises(PermanentError):
        train(open_storage(tmp_path.as_uri()), dataset=f"{'a' * 300}.npz")
    put(open_storage(tmp_path.as_uri()), "d.npz", X, Y)
    with pytest.raises(PermanentError):  # a file where a folder would have to be
        train(open_storage(tmp_path.as_uri()), dataset="d.npz/d.npz")
