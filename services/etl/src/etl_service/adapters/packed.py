"""Packed files: what is in a gzip, zstd, bzip2, xz, deflate or zip file, all of it or an error."""

import bz2
import gzip
import lzma
import re
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types

from etl_service.errors import SourceTooLarge, SourceUnreadable

_CHUNK = 1 << 20

#: The first bytes of packed files (RFC 1952, RFC 8878, APPNOTE of PKWARE). No text and no Parquet file begins so.
_MAGIC = {
    "gzip": rb"\x1f\x8b",
    # Or a frame to skip, with which pzstd begins (RFC 8878, 3.1.2).
    "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18",
    "zip": rb"PK(?:\x03\x04|\x05\x06)",
    # A block begins with the digits of pi, an empty file ends with those of its root.
    "bzip2": rb"BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90)",
    "xz": rb"\xfd7zXZ\x00",
}

#: The first bytes of files that are no source. An error names them: a text of another encoding they are not.
_NO_SOURCE = {
    "an Avro file": rb"Obj\x01",
    "an Arrow or Feather file": rb"ARROW1\x00\x00",
    "an SQLite database": rb"SQLite format 3\x00",
    "an Office document, of Excel 97 or encrypted": rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
    "a PDF document": rb"%PDF-[0-9]",
    "a 7z archive": rb"7z\xbc\xaf\x27\x1c",
    "packed with LZ4": rb"\x04\x22\x4d\x18",
    "a tar archive": rb"(?=.{0,99}\x00).{257}ustar[\x00 ]",
}

#: Bytes that all of these need.
_START = 263

#: Bytes of memory for an xz file. Its highest level needs 65 MiB.
_XZ_MEMORY = 128 << 20

#: Names of ``Content-Encoding`` (RFC 9110, 8.4.1, RFC 8878) that are unpacked; other than these are not asked for.
ENCODINGS = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate", "zstd": "zstd"}

#: A file may be packed this often, as in ``.csv.gz`` that is sent with a Content-Encoding.
_LAYERS = 3

#: Members that only documents of Microsoft's and of OASIS's formats have.
_OFFICE = frozenset({"[Content_Types].xml", "META-INF/manifest.xml"})

#: Members that an archiver of macOS adds for itself.
_NO_CONTENT = ("__MACOSX/", ".DS_Store")


class Truncated(SourceUnreadable):
    """The packed data ends before its end mark."""


def unpack(path: Path, *, limit: int) -> None:
    """Replace a file by what is packed in it, as its first bytes say; leave any other file alone.

    Raises:
        SourceUnreadable: it is damaged or cut off, is an archive of several files, or of a kind that is never a source.
        SourceTooLarge: it has more than ``limit`` bytes when unpacked.
    """
    for _ in range(_LAYERS):
        kind = _kind(path)
        if kind is None:
            return
        decode(path, kind, limit=limit)
    raise SourceUnreadable(f"the source is packed more than {_LAYERS} times")


def decode(path: Path, kind: str, *, limit: int) -> None:
    """Replace a file by what is packed in it.

    Args:
        path: The file.
        kind: ``gzip``, ``bzip2``, ``xz`` (each of any number of members), ``deflate`` (with or without a zlib header),
            ``zstd`` or ``zip``.
        limit: The most bytes that it may have when unpacked.

    Raises:
        Truncated: it is cut off.
        SourceUnreadable: it is damaged, or is an archive of several files.
        SourceTooLarge: it has more than ``limit`` bytes when unpacked.
    """
    unpacked = path.with_name(path.name + ".unpacked")
    size = 0
    try:
        with _opened(path, kind) as chunks, unpacked.open("wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > limit:
                    raise SourceTooLarge(f"the source has more than the {limit} bytes that ETL_MAX_BYTES allows")
                file.write(chunk)
    except EOFError as error:
        raise Truncated(f"the source is cut off: its {kind} data ends in the middle") from error
    except (zlib.error, lzma.LZMAError, OSError, zipfile.BadZipFile, NotImplementedError, pa.ArrowException) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the local disk's fault, not the file's
        raise SourceUnreadable(f"the source cannot be unpacked: its {kind} data is damaged ({error})") from error
    unpacked.replace(path)


def _kind(path: Path) -> str | None:
    with path.open("rb") as file:
        start = file.read(_START)
    for what, magic in _NO_SOURCE.items():
        if re.match(magic, start, re.DOTALL):
            raise SourceUnreadable(f"the source is {what}, and only CSV, JSON Lines and Parquet are read")
    return next((kind for kind, magic in _MAGIC.items() if re.match(magic, start)), None)


@contextmanager
def _opened(path: Path, kind: str) -> Iterator[Iterator[bytes]]:
    match kind:
        case "gzip":
            with gzip.open(path) as file:
                yield _chunks(file)
        case "bzip2":
            with path.open("rb") as file:
                yield _streams(file, bz2.BZ2Decompressor)
        case "xz":
            with path.open("rb") as file:
                yield _streams(file, partial(lzma.LZMADecompressor, lzma.FORMAT_XZ, _XZ_MEMORY))
        case "deflate":
            with path.open("rb") as file:
                yield _inflated(file)
        case "zstd":
            with path.open("rb") as file:
                yield _zstd(file)
        case _:
            with zipfile.ZipFile(path) as archive, archive.open(_only_member(archive)) as file:
                yield _chunks(file)


def _chunks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    start = file.read(2)
    has_header = len(start) == 2 and start[0] & 0x0F == 8 and int.from_bytes(start) % 31 == 0  # RFC 1950, 2.2
    inflater = zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    packed = start
    while packed:
        yield inflater.decompress(packed, _CHUNK)
        packed = inflater.unconsumed_tail or (b"" if inflater.eof else file.read(_CHUNK))
    if not inflater.eof:
        raise EOFError
    if (inflater.unused_data + file.read(1)).strip(b"\0"):
        raise zlib.error("more data after its end")


def _streams(file: IO[bytes], unpacker: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor]) -> Iterator[bytes]:
    packed = file.read(_CHUNK)
    while packed:
        stream = unpacker()
        while not stream.eof:
            yield stream.decompress(packed, _CHUNK)
            packed = file.read(_CHUNK) if stream.needs_input else b""
            if stream.needs_input and not packed:
                raise EOFError
        packed = stream.unused_data.lstrip(b"\0")  # there may be padding, up to the next one
        while not packed and (more := file.read(_CHUNK)):
            packed = more.lstrip(b"\0")


def _zstd(file: IO[bytes]) -> Iterator[bytes]:
    try:
        with pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd") as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk
    except OSError as error:
        if error.errno is not None:
            raise
        if "runcated" in str(error):
            raise EOFError from error
        raise zlib.error(str(error)) from error


def _only_member(archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [member for member in archive.infolist() if not member.is_dir() and not _is_no_content(member.filename)]
    names = ", ".join(member.filename for member in members)[:300]
    if any(member.filename in _OFFICE for member in members):
        raise SourceUnreadable("the source is an Office document: export its sheet as CSV")
    if len(members) != 1:
        raise SourceUnreadable(f"the source is a zip archive of {len(members)} files ({names}), and must have one")
    if members[0].flag_bits & 1:
        raise SourceUnreadable(f"the source is a zip archive whose file {names} is encrypted")
    return members[0]


def _is_no_content(name: str) -> bool:
    return name.startswith(_NO_CONTENT[0]) or name.rpartition("/")[2] == _NO_CONTENT[1]
