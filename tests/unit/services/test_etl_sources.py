"""JSON Lines and Parquet as people have them."""

import io
import json
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
import pyarrow.parquet.encryption as encryption  # type: ignore[import-untyped]  # ships no types
import pytest

from etl_service.casting import cast
from etl_service.errors import SourceUnreadable
from etl_service.sources.batch import Reject
from etl_service.sources.reader import read
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import Column, Format


def typed(
    folder: Path, form: Format, content: bytes, *columns: tuple[str, str], **options: object
) -> tuple[list[tuple[object, ...]], list[Reject]]:
    """The typed rows of a source, and its rejects."""
    (folder / "source").write_bytes(content)
    declared = [Column.model_validate({"name": name, "type": kind} | options) for name, kind in columns]
    rows: list[tuple[object, ...]] = []
    rejects: list[Reject] = []
    for batch in read(folder / "source", form, declared):
        table, bad = cast(batch.frame(), declared)
        rows += zip(*(table[name].to_pylist() for name, _ in columns), strict=True)
        rejects += [*batch.rejects, *bad]
    return rows, rejects


def lines(*records: str) -> bytes:
    return "".join(f"{record}\n" for record in records).encode()


def parquet(column: pa.Array, name: str = "a", **options: object) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({name: column}), buffer, **options)
    return buffer.getvalue()


def test_json_numbers_keep_their_digits(tmp_path: Path) -> None:
    numbers = ["1.10", "100.00", "12345678901234567.89", "1e400", "-0", "9007199254740993"]
    content = lines(*(f'{{"a": {number}}}' for number in numbers))
    assert typed(tmp_path, "jsonl", content, ("a", "text"))[0] == [(number,) for number in numbers]


def test_json_integers_are_exact_however_they_are_written(tmp_path: Path) -> None:
    content = lines('{"a": 9007199254740993.0}', '{"a": 1e3}', '{"a": 1.5e1}', '{"a": "7"}', '{"a": 1.5}')
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "integer"))
    assert rows == [(9007199254740993,), (1000,), (15,), (7,)]
    assert rejects[0].row == 5


def test_json_numbers_have_a_point_whatever_mark_texts_have(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(lines('{"a": 1.5}', '{"a": "1.000,5"}'))
    columns = [Column(name="a", type="number")]
    writing = Writing(decimal_mark=",", thousands_mark=".")
    (batch,) = read(tmp_path / "source", "jsonl", columns, writing)
    assert cast(batch.frame(), columns, (), writing)[0]["a"].to_pylist() == [1.5, 1000.5]


def test_byte_order_marks_of_files_that_were_joined_are_no_part_of_a_line(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\xef\xbb\xbf" + lines('{"a": 1}') + b"\xef\xbb\xbf" + lines('{"a": 2}')
    (tmp_path / "x").write_bytes(content)
    batches = list(read(tmp_path / "x", "jsonl", [Column(name="a", type="integer")]))
    assert [(batch.rows, batch.rejects) for batch in batches] == [([("1",), ("2",)], [])]


def test_a_key_twice_in_an_object_is_a_reject(tmp_path: Path) -> None:
    content = lines('{"a": 1, "a": 2}', '{"a": 1, "b": {"c": 1, "c": 2}}', '{"a": 3, "\\ufeffa": 4}', '{"a": 5}')
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "integer"))
    assert rows == [(5,)]
    assert [reject.row for reject in rejects] == [1, 2, 3]
    assert "'a' twice" in rejects[0].reasons["*"]


def test_a_declared_field_that_no_record_has_refuses_the_source(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="no record of the source has the fields b: they have a, "):
        typed(tmp_path, "jsonl", lines('{"a": 1, "B": 2}'), ("a", "integer"), ("b", "text"))
    assert typed(tmp_path, "jsonl", lines('{"a": 1}', '{"a": 2, "b": 3}'), ("a", "integer"), ("b", "text"))[0] == [
        (1, None),
        (2, "3"),
    ]
    allowed = typed(tmp_path, "jsonl", lines('{"a": 1}'), ("a", "integer"), ("b", "text"), may_be_absent=True)
    assert allowed == ([(1, None)], [])


@pytest.mark.parametrize("content", [b'[\n{"a": 1},\n{"a": 2}\n]\n', b'{\n"a": 1\n}\n'])
def test_one_json_value_over_many_lines_is_told(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(SourceUnreadable, match="one JSON value over many lines"):
        typed(tmp_path, "jsonl", content, ("a", "integer"))


def test_a_line_of_very_many_values_is_a_reject(tmp_path: Path) -> None:
    commas = '\\",' * 300_000
    content = lines(json.dumps({"a": "x", "b": [{}] * 100_001}), f'{{"a": "y", "b": "{commas}"}}')
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "text"))
    assert rows == [("y",)]
    assert rejects[0].reasons == {"*": "has more than 200,000 values"}


def test_a_value_that_is_nested_too_deeply_is_a_reject(tmp_path: Path) -> None:
    content = lines('{"a": ' + "[" * 600 + "]" * 600 + "}", '{"a": [1]}')
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "json"))
    assert rows[-1] == ("[1]",)
    assert [reject.row for reject in rejects] in ([1], [])  # what is too deep is Python's choice
    assert len(rows) + len(rejects) == 2


def test_only_an_escaped_nul_is_one(tmp_path: Path) -> None:
    escaped = [r'["\\u0000"]', r'["\\\\u0000"]', r'["\u0000"]', r'["\\\u0000"]']
    content = lines(*(f'{{"a": {value}}}' for value in escaped))
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "json"))
    assert rows == [(value,) for value in escaped[:2]]
    assert [reject.row for reject in rejects] == [3, 4]
    assert "holds a NUL character" in rejects[0].reasons["a"]


def test_json_columns_take_any_value_and_keep_its_digits(tmp_path: Path) -> None:
    content = lines('{"a": {"p": 1.10, "q": [1, null]}}', '{"a": "x"}', '{"a": null}', '{"a": 1e400}')
    rows, rejects = typed(tmp_path, "jsonl", content, ("a", "json"))
    assert rows == [('{"p": 1.10, "q": [1, null]}',), ('"x"',), (None,), ("1e400",)]
    assert rejects == []


def test_whole_numbers_that_were_kept_as_doubles_are_integers(tmp_path: Path) -> None:
    column = pa.array([1.0, None, 1e16, -9007199254740992.0, 1e18, 1e19, 1.5])  # as pandas keeps some with gaps
    rows, rejects = typed(tmp_path, "parquet", parquet(column), ("a", "integer"))
    assert rows == [(1,), (None,), (10**16,), (-9007199254740992,), (10**18,)]
    assert [reject.row for reject in rejects] == [6, 7]


def test_times_of_96_bits_are_read_far_beyond_the_range_of_nanoseconds(tmp_path: Path) -> None:
    moments = [datetime(9999, 12, 31), datetime(1, 1, 1), datetime(2026, 10, 1, 8, 30, 0, 123456), None]  # noqa: DTZ001  without a zone
    content = parquet(pa.array(moments, pa.timestamp("us")), use_deprecated_int96_timestamps=True)
    rows, rejects = typed(tmp_path, "parquet", content, ("a", "timestamp"))
    assert rows == [(moment and moment.replace(tzinfo=UTC),) for moment in moments]
    assert rejects == []


@pytest.mark.parametrize("zone", ["Z", "+0530", "dateutil/Europe/Berlin", "+02:00", "UTC", "US/Eastern", "Nowhere/X"])
def test_times_with_a_zone_are_in_utc_whatever_the_zone_is_called(tmp_path: Path, zone: str) -> None:
    moment = datetime(2026, 10, 1, 8, 30, tzinfo=UTC)
    content = parquet(pa.array([moment.replace(tzinfo=None)], pa.timestamp("us", zone)))
    assert typed(tmp_path, "parquet", content, ("a", "timestamp"), timezone="Asia/Tokyo")[0] == [(moment,)]


def test_times_without_a_zone_are_in_the_zone_of_the_column(tmp_path: Path) -> None:
    content = parquet(pa.array([datetime(2026, 10, 1, 9)], pa.timestamp("ms")))  # noqa: DTZ001  that is the case
    assert typed(tmp_path, "parquet", content, ("a", "timestamp"), timezone="Asia/Tokyo")[0] == [
        (datetime(2026, 10, 1, tzinfo=UTC),)
    ]


SMALL = Decimal("0.0000001")
IDENTITY = uuid.UUID(int=2**100)


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        (pa.array([SMALL], pa.decimal128(30, 18)), "decimal(30, 18)", SMALL),
        (pa.array([SMALL], pa.decimal256(60, 18)), "decimal(30, 18)", SMALL),
        (pa.array([Decimal(100)], pa.decimal128(3, 0)), "integer", 100),
        (pa.array([2**64 - 1], pa.uint64()), "decimal(20, 0)", Decimal(2**64 - 1)),
        (pa.array([b"K\xc3\xb6ln"], pa.binary()), "text", "Köln"),
        (pa.array([IDENTITY.bytes], pa.binary(16)), "uuid", str(IDENTITY)),
        (pa.ExtensionArray.from_storage(pa.uuid(), pa.array([IDENTITY.bytes], pa.binary(16))), "text", str(IDENTITY)),
        (pa.array([[1, 2]], pa.list_(pa.int64())), "json", "[1, 2]"),
        (pa.array([{"b": b"K\xc3\xb6ln"}], pa.struct({"b": pa.binary()})), "json", '{"b": "Köln"}'),
        (pa.array(["x"]).dictionary_encode(), "text", "x"),
        (pa.array(["x"], pa.string_view()), "text", "x"),
        (pa.array([date(2026, 10, 1)], pa.date64()), "date", date(2026, 10, 1)),
        (pa.array([0.1], pa.float32()), "number", 0.1),
        (pa.array([30_600_000], pa.time32("ms")), "text", "08:30:00.000"),
    ],
)
def test_parquet_values_arrive_as_they_are(tmp_path: Path, column: pa.Array, kind: str, value: object) -> None:
    assert typed(tmp_path, "parquet", parquet(column), ("a", kind)) == ([(value,)], [])


NOT_UTF_8 = pa.Array.from_buffers(
    pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0\6\0\0\0"), pa.py_buffer(b"abc\xff\xfe\x41")]
)


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (NOT_UTF_8, "text"),
        (NOT_UTF_8.dictionary_encode(), "text"),
        (pa.array([b"\xff"], pa.binary()), "text"),
        (pa.array([b"123"], pa.binary(3)), "text"),
        (pa.array([[1]], pa.list_(pa.int64())), "integer"),
        (pa.array([1], pa.duration("s")), "integer"),
        (pa.array([{"metadata": b"\1\0", "value": b"\0"}]), "json"),
        (pa.array([{"b": b"\xff"}], pa.struct({"b": pa.binary()})), "json"),
        (pa.array([{"day": 2**31 - 1}], pa.struct({"day": pa.date32()})), "json"),
    ],
)
def test_parquet_values_that_have_no_meaning_here_are_refused_by_their_column(
    tmp_path: Path, column: pa.Array, kind: str
) -> None:
    with pytest.raises(SourceUnreadable, match="column 'odd' of the source"):
        typed(tmp_path, "parquet", parquet(column, name="odd"), ("odd", kind))


@pytest.mark.parametrize("encoding", ["DELTA_BYTE_ARRAY", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_every_encoding_of_texts_is_read(tmp_path: Path, encoding: str) -> None:
    content = parquet(pa.array(["Köln", None, "Köln"]), use_dictionary=False, column_encoding=encoding)
    assert typed(tmp_path, "parquet", content, ("a", "text"))[0] == [("Köln",), (None,), ("Köln",)]


def test_a_page_that_is_not_what_its_checksum_says_is_refused(tmp_path: Path) -> None:
    numbers = pa.array(range(1000), pa.int64())
    content = bytearray(parquet(numbers, compression="none", use_dictionary=False, write_page_checksum=True))
    content[content.index((500).to_bytes(8, "little"))] ^= 1
    with pytest.raises(SourceUnreadable, match="CRC checksum verification failed"):
        typed(tmp_path, "parquet", bytes(content), ("a", "integer"))


def test_rows_that_no_memory_should_hold_are_refused_before_they_are_read(tmp_path: Path) -> None:
    content = parquet(pa.array(["x" * (80 << 20)]), use_dictionary=False, compression="zstd")
    with pytest.raises(SourceUnreadable, match=r"rows of 83,886,1\d\d bytes, and 67,108,864 are the most"):
        typed(tmp_path, "parquet", content, ("a", "text"))


def test_a_file_with_fewer_rows_than_it_says_is_refused(tmp_path: Path) -> None:
    content = parquet(pa.array([7] * 40), store_schema=False)
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    # In the footer the number of rows is a field of 64 bits (type 6), 40 zigzag: first of the file, last of the group.
    of_file, of_group = content.index(b"\x16\x50", start), content.rindex(b"\x16\x50", start)
    with pytest.raises(SourceUnreadable, match="says that it has 41 rows, and 40 are there"):
        typed(tmp_path, "parquet", content[:of_group] + b"\x16\x52" + content[of_group + 2 :], ("a", "integer"))
    unset = content[:of_file] + b"\x16\x00" + content[of_file + 2 :]
    assert typed(tmp_path, "parquet", unset, ("a", "integer"))[0] == [(7,)] * 40


class Kms(encryption.KmsClient):  # type: ignore[misc]  # ships no types
    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return key_bytes

    def unwrap_key(self, wrapped_key: bytes, master_key_identifier: str) -> bytes:
        return wrapped_key


def encrypted(table: pa.Table, column: str, *, plaintext_footer: bool) -> bytes:
    keys = encryption.EncryptionConfiguration(
        footer_key="a", column_keys={"b": [column]}, plaintext_footer=plaintext_footer, internal_key_material=True
    )
    properties = encryption.CryptoFactory(lambda _: Kms()).file_encryption_properties(
        encryption.KmsConnectionConfig(), keys
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, encryption_properties=properties)
    return buffer.getvalue()


PARTLY_SECRET = pa.table({"a": ["x", "y"], "secret": ["z", None]})


def test_the_open_columns_of_a_partly_encrypted_file_are_read(tmp_path: Path) -> None:
    content = encrypted(PARTLY_SECRET, "secret", plaintext_footer=True)
    assert typed(tmp_path, "parquet", content, ("a", "text"))[0] == [("x",), ("y",)]
    with pytest.raises(SourceUnreadable, match="encrypted, as a whole or in a declared column"):
        typed(tmp_path, "parquet", content, ("a", "text"), ("secret", "text"))


def test_a_wholly_encrypted_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="encrypted, as a whole or in a declared column"):
        typed(tmp_path, "parquet", encrypted(PARTLY_SECRET, "secret", plaintext_footer=False), ("a", "text"))


def test_a_name_of_a_column_that_is_no_text_is_a_damaged_source(tmp_path: Path) -> None:
    content = parquet(pa.array([1]), name="abcd", store_schema=False).replace(b"abcd", b"\xe8bcd")
    with pytest.raises(SourceUnreadable, match="the name of a column is not UTF-8"):
        typed(tmp_path, "parquet", content, ("a", "integer"))


def test_numbers_that_are_none_are_spelt_alike_for_every_type(tmp_path: Path) -> None:
    content = parquet(pa.array([1.0, float("nan"), float("-inf")]))
    for kind in ("integer", "number", "text"):
        (tmp_path / "source").write_bytes(content)
        (batch,) = read(tmp_path / "source", "parquet", [Column(name="a", type=kind)])
        assert batch.rows[1:] == [("NaN",), ("-inf",)]


# What hostile files cost ------------------------------------------------------------------------

READ_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from etl_service.casting import cast
from etl_service.sources.reader import read
from jobkit.contracts.etl import Column
columns = [Column(name="a", type="text")]
first = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = 0
for batch in read(Path(sys.argv[1]), sys.argv[2], columns):
    rows += cast(batch.frame(), columns)[0].num_rows + len(batch.rejects)
    if rows > 500:
        break
last = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(rows, (last - first) * (1 if sys.platform == "darwin" else 1024) >> 20)
"""


def one_long_text_in_many_rows() -> bytes:
    text = "x" * 1_000_000
    return parquet(pa.DictionaryArray.from_arrays(pa.array([0] * 20_000, pa.int32()), pa.array([text])))


def many_long_texts() -> bytes:
    return parquet(pa.array([f"{n:7}" * 20_000 for n in range(1_000)]), compression="zstd", write_batch_size=10)


def a_line_of_objects() -> bytes:
    return json.dumps({"a": [{} for _ in range(1_000_000)]}).encode() + b"\n" + b'{"a": "x"}\n'


def lines_of_objects() -> bytes:
    return (json.dumps({"a": "x", "b": [{} for _ in range(90_000)]}).encode() + b"\n") * 15


@pytest.mark.parametrize(
    ("form", "content"),
    [
        ("parquet", one_long_text_in_many_rows),
        ("parquet", many_long_texts),
        ("jsonl", a_line_of_objects),
        ("jsonl", lines_of_objects),
        ("csv", lambda: b'a\n"' + b'"",\n' * 400_000 + b'"\n'),
    ],
    ids=["dictionary", "texts", "line", "lines", "quotes"],
)
def test_a_hostile_file_takes_a_bounded_memory(tmp_path: Path, form: str, content: object) -> None:
    assert callable(content)
    (tmp_path / "source").write_bytes(content())
    command = [sys.executable, "-c", READ_UNDER_A_LIMIT, str(tmp_path / "source"), form]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    rows, megabytes = map(int, done.stdout.split())
    assert rows > 0
    assert megabytes < 250
