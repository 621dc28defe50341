"""Packed sources are read whole or refused."""

import bz2
import gzip
import io
import lzma
import sqlite3
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.adapters.packed import Truncated, decode, unpack
from etl_service.errors import SourceTooLarge, SourceUnreadable

ROWS = b"".join(b"%d,n%d\n" % (n, n * 7919) for n in range(20_000))
HALF = len(ROWS) // 2
LIMIT = 2 * len(ROWS)


def zstd(content: bytes) -> bytes:
    packed: bytes = pa.compress(content, codec="zstd", asbytes=True)
    return packed


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, ROWS)
    return buffer.getvalue()


WHOLE: list[tuple[str, bytes]] = [
    ("gzip", gzip.compress(ROWS)),
    ("gzip", gzip.compress(ROWS[:HALF]) + gzip.compress(b"") + gzip.compress(ROWS[HALF:])),
    ("gzip", gzip.compress(ROWS) + b"\0" * 512),  # as tapes and block devices leave it
    ("deflate", zlib.compress(ROWS)),
    ("deflate", raw_deflate(ROWS)),
    ("zstd", zstd(ROWS)),
    ("zstd", zstd(ROWS[:HALF]) + zstd(ROWS[HALF:])),
    ("zstd", b"\x50\x2a\x4d\x18\x04\0\0\0size" + zstd(ROWS)),  # as pzstd begins: with a frame to skip
    ("bzip2", bz2.compress(ROWS)),
    ("bzip2", bz2.compress(ROWS[:HALF]) + bz2.compress(b"") + bz2.compress(ROWS[HALF:])),  # as pbzip2 writes it
    ("bzip2", bz2.compress(b"") + bz2.compress(ROWS)),
    ("xz", lzma.compress(ROWS)),
    ("xz", lzma.compress(ROWS[:HALF]) + b"\0" * 8 + lzma.compress(ROWS[HALF:], preset=9) + b"\0" * 4),
    ("zip", zipped("rows.csv")),
    ("zip", zipped("folder/rows.csv", "__MACOSX/folder/._rows.csv", "folder/.DS_Store")),
]


@pytest.mark.parametrize(("kind", "packed"), WHOLE)
def test_all_of_a_packed_file_is_read(tmp_path: Path, kind: str, packed: bytes) -> None:
    (tmp_path / "x").write_bytes(packed)
    decode(tmp_path / "x", kind, limit=LIMIT)
    assert (tmp_path / "x").read_bytes() == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(("kind", "packed"), [pair for pair in WHOLE if pair[0] not in {"deflate"}])
def test_a_packed_file_is_known_by_its_first_bytes(tmp_path: Path, kind: str, packed: bytes) -> None:
    del kind
    (tmp_path / "x").write_bytes(packed)
    unpack(tmp_path / "x", limit=LIMIT)
    assert (tmp_path / "x").read_bytes() == ROWS


@pytest.mark.parametrize("cut", [lambda packed: packed[:-3], lambda packed: packed[: len(packed) // 2]])
@pytest.mark.parametrize(
    ("kind", "packed"),
    [
        ("gzip", gzip.compress(ROWS)),
        ("deflate", zlib.compress(ROWS)),
        ("deflate", raw_deflate(ROWS)),
        ("zstd", zstd(ROWS)),
    ],
)
def test_a_packed_file_that_ends_in_the_middle_is_refused(
    tmp_path: Path, kind: str, packed: bytes, cut: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "x").write_bytes(cut(packed))
    with pytest.raises(Truncated, match="cut off"):
        decode(tmp_path / "x", kind, limit=LIMIT)


@pytest.mark.parametrize(
    ("kind", "packed", "message"),
    [
        ("gzip", gzip.compress(ROWS) + gzip.compress(ROWS)[:100], "cut off"),
        ("gzip", gzip.compress(ROWS) + b"garbage", "damaged"),
        ("deflate", zlib.compress(ROWS) + b"garbage", "damaged"),
        ("deflate", ROWS, "damaged"),
        ("bzip2", bz2.compress(ROWS) + b"garbage", "damaged"),
        ("bzip2", bz2.compress(ROWS) + bz2.compress(ROWS)[:99], "cut off"),
        ("xz", lzma.compress(ROWS) + b"garbage" * 9, "damaged"),
        ("xz", lzma.compress(ROWS) + lzma.compress(ROWS)[:99], "cut off"),
        ("zstd", zstd(ROWS) + b"garbage!", "damaged"),
        ("zstd", zstd(ROWS) + zstd(ROWS)[:9], "cut off"),
        ("zip", zipped("rows.csv")[:-30], "damaged"),
        ("zip", zipped("a.csv", "b.csv"), r"2 files \(a.csv, b.csv\)"),
        ("zip", zipped("[Content_Types].xml", "xl/workbook.xml"), "Office document"),
        ("zip", zipped("mimetype", "META-INF/manifest.xml", "content.xml"), "Office document"),
        ("zip", zipped(), "0 files"),
    ],
)
def test_a_packed_file_that_is_not_one_file_is_refused(tmp_path: Path, kind: str, packed: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(packed)
    with pytest.raises(SourceUnreadable, match=message):
        decode(tmp_path / "x", kind, limit=LIMIT)


PACKERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("zstd", zstd),
    ("bzip2", bz2.compress),
    ("xz", lzma.compress),
]


@pytest.mark.parametrize(("kind", "pack"), PACKERS)
def test_what_is_unpacked_is_bounded(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x").write_bytes(pack(b"0" * 10_000_000))
    with pytest.raises(SourceTooLarge, match="1000000 bytes"):
        decode(tmp_path / "x", kind, limit=1_000_000)


def test_a_file_that_is_not_packed_is_left_alone(tmp_path: Path) -> None:
    for content in (b"", b"a\n1\n", b"PAR1", "\ufeffa\n".encode(), "a\n".encode("utf-16")):
        (tmp_path / "x").write_bytes(content)
        unpack(tmp_path / "x", limit=10)
        assert (tmp_path / "x").read_bytes() == content


def test_a_text_that_begins_like_a_packed_file_is_left_alone(tmp_path: Path) -> None:
    for content in (b"BZh1,b\n1,2\n", b"ARROW1,b\n1,2\n", b"Object,b\n1,2\n", b"a" * 257 + b"ustar \n"):
        (tmp_path / "x").write_bytes(content)
        unpack(tmp_path / "x", limit=1000)
        assert (tmp_path / "x").read_bytes() == content


def test_an_xz_file_that_asks_for_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl_service.adapters.packed._XZ_MEMORY", 1 << 20)  # its usual level needs 9 MiB
    (tmp_path / "x").write_bytes(lzma.compress(b"a,b\n"))
    with pytest.raises(SourceUnreadable, match="Memory usage limit exceeded"):
        unpack(tmp_path / "x", limit=LIMIT)


def sqlite(folder: Path) -> bytes:
    with sqlite3.connect(folder / "db") as connection:
        connection.execute("CREATE TABLE a (b)")
    connection.close()
    return (folder / "db").read_bytes()


def tar(folder: Path) -> bytes:
    (folder / "rows.csv").write_bytes(ROWS)
    with tarfile.open(folder / "tar", "w") as archive:
        archive.add(folder / "rows.csv", "rows.csv")
    return gzip.compress((folder / "tar").read_bytes())


def arrow(folder: Path) -> bytes:
    with pa.ipc.new_file(folder / "arrow", schema := pa.schema([("a", pa.int64())])) as writer:
        writer.write(pa.record_batch([[1]], schema=schema))
    return (folder / "arrow").read_bytes()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (sqlite, "an SQLite database"),
        (tar, "a tar archive"),
        (arrow, "an Arrow or Feather file"),
        (lambda _: b"Obj\x01\x04\x14avro.codec", "an Avro file"),
        (lambda _: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9), "an Office document, of Excel 97 or encrypted"),
    ],
)
def test_a_file_that_is_never_a_source_is_called_by_its_name(
    tmp_path: Path, content: Callable[[Path], bytes], what: str
) -> None:
    (tmp_path / "x").write_bytes(content(tmp_path))
    with pytest.raises(SourceUnreadable, match=f"the source is {what}, and only CSV, JSON Lines and Parquet are read"):
        unpack(tmp_path / "x", limit=LIMIT)
