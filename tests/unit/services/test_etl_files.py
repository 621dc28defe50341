"""The copy of a source is whole, or the job tries again."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import obstore
import pytest

from etl_service.adapters.files import ObjectFiles, scratch
from etl_service.errors import (
    DiskFull,
    DiskTooSmall,
    DiskUnavailable,
    SourceChanged,
    SourceMissing,
    StorageTrouble,
    StorageUnavailable,
)
from jobkit.errors import TransientError

OLD = b"id\n" + b"1\n" * 1_000_000


class WhileRead:
    """Changes the file of a source when its first bytes have been read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, content: bytes) -> None:
        get = obstore.get

        class Found:
            def __init__(self, found: "obstore.GetResult") -> None:
                self.found, self.meta = found, found.meta

            def stream(self, **options: int) -> Iterator[bytes]:
                chunks = iter(self.found.stream(**options))
                yield bytes(next(chunks))
                path.write_bytes(content)
                yield from map(bytes, chunks)

        monkeypatch.setattr(obstore, "get", lambda store, key: Found(get(store, key)))


@pytest.mark.parametrize(
    "content", [b"", b"id\n", OLD.replace(b"1", b"2"), OLD + b"3\n"], ids=["emptied", "cut", "rewritten", "longer"]
)
def test_a_source_that_changes_while_it_is_copied_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    source = tmp_path / "files" / "a.csv"
    source.write_bytes(OLD)
    os.utime(source, ns=(1, 1))  # a file system may be too coarse to tell two writes of one moment
    WhileRead(monkeypatch, source, content)
    with pytest.raises(SourceChanged, match=r"'a\.csv' changed while it was copied"):
        files.download("a.csv", tmp_path / "copy")
    monkeypatch.undo()
    files.download("a.csv", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


@pytest.mark.parametrize("key", ["x" * 300, "a.csv/b", "folder"])
def test_a_key_that_no_file_can_have_is_no_outage(tmp_path: Path, key: str) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    (tmp_path / "files" / "a.csv").write_bytes(OLD)
    (tmp_path / "files" / "folder").mkdir()
    with pytest.raises(SourceMissing):
        files.download(key, tmp_path / "copy")


def test_a_pipe_in_the_folder_is_refused_at_once(tmp_path: Path) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    os.mkfifo(tmp_path / "files" / "pipe")
    with pytest.raises(SourceMissing, match="is no file but a pipe"):
        files.download("pipe", tmp_path / "copy")


def test_an_object_that_is_not_for_us_is_no_outage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    files = ObjectFiles.at(str(tmp_path / "files"))
    monkeypatch.setattr(obstore, "get", refuse)
    with pytest.raises(StorageTrouble, match="may not be read") as caught:
        files.download("a.csv", tmp_path / "copy")
    assert isinstance(caught.value, TransientError)
    assert not isinstance(caught.value, StorageUnavailable)


def test_a_storage_whose_folder_is_gone_is_an_outage(tmp_path: Path) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    shutil.rmtree(tmp_path / "files")
    with pytest.raises(StorageUnavailable):
        files.download("a.csv", tmp_path / "copy")


def test_a_scratch_folder_without_room_is_told_before_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = ObjectFiles.at(str(tmp_path / "files"))
    (tmp_path / "files" / "a.csv").write_bytes(OLD)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100, total=10**9))
    with scratch() as folder, pytest.raises(DiskFull, match="no room left"):
        files.download("a.csv", folder / "copy")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100, total=len(OLD)))
    with scratch() as folder, pytest.raises(DiskTooSmall, match="set TMPDIR"):
        files.download("a.csv", folder / "copy")


def test_a_job_that_fills_the_disk_by_itself_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0, total=1_000))

    def fill() -> None:
        with scratch() as folder:
            (folder / "rows").write_bytes(b"x" * 900)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskTooSmall, match="take 900 bytes of the 1,000"):
        fill()


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, DiskUnavailable)]
)
def test_a_full_disk_is_told_apart_from_other_trouble(number: int, kind: type[DiskUnavailable]) -> None:
    with pytest.raises(DiskUnavailable) as caught, scratch():
        raise OSError(number, os.strerror(number))
    assert type(caught.value) is kind
    assert (tempfile.gettempdir() in str(caught.value)) == (kind is DiskFull)
