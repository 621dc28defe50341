"""Packed sources are read whole or refused."""

import gzip
import io
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
        ("zstd", zstd(ROWS) + b"garbage!", "damaged"),
        ("zstd", zstd(ROWS) + zstd(ROWS)[:9], "cut off"),
        ("zip", zipped("rows.csv")[:-30], "damaged"),
        ("zip", zipped("a.csv", "b.csv"), r"2 files \(a.csv, b.csv\)"),
        ("zip", zipped("[Content_Types].xml", "xl/workbook.xml"), "Office document"),
        ("zip", zipped(), "0 files"),
    ],
)
def test_a_packed_file_that_is_not_one_file_is_refused(tmp_path: Path, kind: str, packed: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(packed)
    with pytest.raises(SourceUnreadable, match=message):
        decode(tmp_path / "x", kind, limit=LIMIT)


@pytest.mark.parametrize(("kind", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstd)])
def test_what_is_unpacked_is_bounded(tmp_path: Path, kind: str, pack: Callable[[bytes], bytes]) -> None:
    (tmp_path / "x").write_bytes(pack(b"0" * 10_000_000))
    with pytest.raises(SourceTooLarge, match="1000000 bytes"):
        decode(tmp_path / "x", kind, limit=1_000_000)


def test_a_file_that_is_not_packed_is_left_alone(tmp_path: Path) -> None:
    for content in (b"", b"a\n1\n", b"PAR1", "\ufeffa\n".encode(), "a\n".encode("utf-16")):
        (tmp_path / "x").write_bytes(content)
        unpack(tmp_path / "x", limit=10)
        assert (tmp_path / "x").read_bytes() == content
