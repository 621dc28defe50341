import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from inference_service.actors import service
from inference_service.adapters import open_resources
from inference_service.adapters.checkpoints import Checkpoint, Checkpoints
from inference_service.adapters.storage import ObjectStorage, open_storage
from inference_service.errors import StorageUnavailable
from inference_service.handlers import remove_old_checkpoints
from inference_service.settings import InferenceSettings
from jobkit.contracts.inference import RemoveOldCheckpoints
from jobkit.errors import SettingsError, TransientError


@pytest.fixture(params=["file", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStorage:
    return open_storage({"file": tmp_path.as_uri(), "memory": "memory:///"}[request.param])


def test_storage_returns_what_was_put_last(storage: ObjectStorage) -> None:
    storage.put("a/b", b"old")
    storage.put("a/b", b"new")
    storage.put("ab/c", b"")
    assert storage.get("a/b") == b"new"
    assert storage.get("ab/c") == b""
    assert storage.keys("a") == ["a/b"]


def test_an_object_that_is_not_there_is_none_and_may_be_deleted(storage: ObjectStorage) -> None:
    assert storage.get("nothing") is None
    assert storage.keys("nothing") == []
    storage.delete("nothing")


def test_an_object_above_the_limit_is_not_read(storage: ObjectStorage) -> None:
    storage.put("large", b"12345")
    assert storage.get("large", max_bytes=5) == b"12345"
    with pytest.raises(ValueError, match="5 bytes are more than 4"):
        storage.get("large", max_bytes=4)


def test_a_storage_that_does_not_answer_does_not_stop_the_start_and_is_worth_another_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "name",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT": "http://127.0.0.1:9",  # the discard port: nothing listens there
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("inference_service.adapters.storage.RETRIES", 0)
    settings = InferenceSettings(storage_url="s3://bucket/models")
    with open_resources(settings) as resources, pytest.raises(StorageUnavailable, match="could not read") as caught:
        resources.storage.get("x")
    assert isinstance(caught.value, TransientError)
    assert "error sending request" in str(caught.value)  # the connection was tried: plain HTTP is not refused before
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_a_file_stops_the_start_and_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SettingsError, match="INFERENCE_STORAGE_URL"),
        open_resources(InferenceSettings(storage_url=(tmp_path / "file").as_uri())),
    ):
        pass


@pytest.mark.parametrize("url", ["ftp://example.com/x", "data", "file://data/x"])
def test_a_url_that_is_no_storage_is_refused_and_names_the_variable(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("INFERENCE_STORAGE_URL", url)
    with pytest.raises(SettingsError, match="INFERENCE_STORAGE_URL"):
        InferenceSettings.load()


def test_the_last_checkpoints_are_kept_and_come_newest_first(storage: ObjectStorage) -> None:
    checkpoints = Checkpoints.of(storage, "job", {}, kept=2)
    for epoch in range(1, 6):
        checkpoints.save(Checkpoint(epoch, b"%d" % epoch))
    assert list(checkpoints.newest_first()) == [Checkpoint(5, b"5"), Checkpoint(4, b"4")]


@pytest.mark.parametrize("damaged", [b"", b"4", b"5 and something"])
def test_a_damaged_checkpoint_is_logged_and_the_one_before_is_used(
    storage: ObjectStorage, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    checkpoints = Checkpoints.of(storage, "job", {}, kept=2)
    for epoch in (4, 5):
        checkpoints.save(Checkpoint(epoch, b"%d" % epoch))
    storage.put(storage.keys("checkpoints")[-1], damaged)
    with caplog.at_level(logging.WARNING):
        assert list(checkpoints.newest_first()) == [Checkpoint(4, b"4")]
    assert "is damaged: falling back to the one before" in caplog.text


def test_checkpoints_of_other_inputs_are_not_seen_but_cleared(storage: ObjectStorage) -> None:
    Checkpoints.of(storage, "job/../1", {"seed": 1}, kept=2).save(Checkpoint(1, b"1"))
    Checkpoints.of(storage, "job 2", {"seed": 1}, kept=2).save(Checkpoint(1, b"1"))
    edited = Checkpoints.of(storage, "job/../1", {"seed": 2}, kept=2)
    assert list(edited.newest_first()) == []
    edited.clear()
    assert len(storage.keys("checkpoints")) == 1


def saved(storage: ObjectStorage, job_id: str, *epochs: int) -> Checkpoints:
    checkpoints = Checkpoints.of(storage, job_id, {}, kept=5)
    for epoch in epochs:
        checkpoints.save(Checkpoint(epoch, b"weights"))
    return checkpoints


def age(folder: Path, days: float) -> None:
    for file in (one for one in folder.rglob("*") if one.is_file()):
        written = file.stat().st_mtime - days * 86_400
        os.utime(file, (written, written))


def test_checkpoints_of_trainings_that_died_long_ago_are_removed_and_no_others(tmp_path: Path) -> None:
    storage = open_storage(tmp_path.as_uri())
    saved(storage, "dead", 1, 2)
    running = saved(storage, "running", 1)
    storage.put("models/digits/latest.json", b"{}")
    age(tmp_path, days=31)
    running.save(Checkpoint(2, b"weights"))
    recent = saved(storage, "recent", 1)
    age(tmp_path / recent.job_folder, days=29)
    removed = remove_old_checkpoints(RemoveOldCheckpoints(), storage, now=datetime.now(UTC))
    assert removed.trainings == 1
    assert len(storage.keys("models")) == 1
    left = {key.rpartition("/")[0] for key in storage.keys("checkpoints")}
    assert left == {running.folder, recent.folder}
    assert len(storage.keys(running.folder)) == 2, "what a running training falls back on"
    assert remove_old_checkpoints(RemoveOldCheckpoints(), storage, now=datetime.now(UTC)).trainings == 0


def test_a_storage_without_checkpoints_has_none_to_remove(storage: ObjectStorage) -> None:
    assert remove_old_checkpoints(RemoveOldCheckpoints(days=1), storage, now=datetime.now(UTC)).trainings == 0


def test_the_listing_tells_when_an_object_was_written(storage: ObjectStorage) -> None:
    before = datetime.now(UTC)
    storage.put("a/b", b"1")
    [stored] = storage.listing("a")
    assert stored.key == "a/b"
    assert abs(stored.written_at - before) < timedelta(minutes=1)


def test_old_checkpoints_are_removed_each_night() -> None:
    declared = service.actors["remove_old_checkpoints"].periodic
    assert declared is not None
    assert declared.next_after(datetime(2026, 3, 1, 4, tzinfo=UTC)) == datetime(2026, 3, 2, 3, 30, tzinfo=UTC)
