"""CSV as people have it: quotes, blanks, encodings, delimiters."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_service.errors import SourceUnreadable
from etl_service.sources import csv_records
from etl_service.sources.batch import LONGEST_CELL, LONGEST_RECORD, Reject
from etl_service.sources.csv_records import Records
from etl_service.sources.reader import read
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import Column


def rows_of(
    folder: Path, content: str | bytes, *names: str, may_be_absent: bool = False, writing: Writing | None = None
) -> tuple[list[tuple[str | None, ...]], list[Reject]]:
    (folder / "x.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    columns = [
        Column(name=f"c{n}", type="text", source_name=name, may_be_absent=may_be_absent) for n, name in enumerate(names)
    ]
    batches = list(read(folder / "x.csv", "csv", columns, writing or Writing()))
    return [row for batch in batches for row in batch.rows], [reject for batch in batches for reject in batch.rejects]


def cells_of(text: str, delimiter: str = ",") -> list[Sequence[str | None]]:
    records = list(Records(io.StringIO(text, newline=""), delimiter, nulls=False))
    assert not any(record.damage for record in records)
    return [record.cells for record in records]


CELL = st.text(st.sampled_from('ab,;" \t\r\n\u00e9\\'), max_size=8)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(CELL, min_size=2, max_size=4), max_size=6),
    st.sampled_from([",", ";", "\t"]),
    st.sampled_from(["\r\n", "\n", "\r"]),
)
def test_whatever_pythons_writer_quotes_is_read_as_it_was(rows: list[list[str]], delimiter: str, end: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    assert cells_of(text.getvalue(), delimiter) == rows


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(st.text(st.sampled_from('a",\n'), max_size=6), min_size=1, max_size=4), max_size=6))
def test_whatever_pythons_writer_writes_is_read_as_it_was_but_for_empty_rows(rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    kept = [row for row in rows if row == [""] or any(row)]  # a single empty cell is written with quotes
    assert cells_of(text.getvalue()) == kept


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from('ab",\n '), max_size=60))
def test_any_text_ends_in_records_that_hold_all_its_lines_or_in_a_clear_error(text: str) -> None:
    try:
        records = list(Records(io.StringIO(text, newline=""), ",", nulls=False))
    except SourceUnreadable:
        return
    read_lines = "".join(record.text for record in records)
    assert [line for line in read_lines.splitlines() if line.strip(", ")] == [
        line for line in text.splitlines() if line.strip(", ")
    ]
    assert [record.line for record in records] == sorted({record.line for record in records})


LINE = st.lists(st.sampled_from(["a", '"', '""', '",', ",", " ", "\t", "NULL", "\\N"]), max_size=14).map("".join)


@settings(max_examples=300, deadline=None)
@given(lines=st.lists(LINE, max_size=4), nulls=st.booleans())
def test_the_fast_way_and_the_slow_way_read_the_same(lines: list[str], *, nulls: bool) -> None:
    def told() -> list[object]:
        found: list[object] = []
        records = Records(io.StringIO("\n".join(lines)), ",", nulls=nulls)
        with suppress(SourceUnreadable):
            found.extend((record.line, record.damage or list(record.cells)) for record in records)
        return found

    fast = told()
    with patch.object(csv_records, "_LONGEST_FAST_LINE", 0):
        assert told() == fast


def test_a_cell_of_many_lines_is_one_cell(tmp_path: Path) -> None:
    body = "Dear all,\n" + "please,see\n" * 50_000
    rows, rejects = rows_of(tmp_path, f'id,body\n1,"{body}"\n2,ok\n', "id", "body")
    assert (rows, rejects) == ([("1", body), ("2", "ok")], [])


def test_a_cell_above_the_limit_is_one_reject(tmp_path: Path) -> None:
    body = "please,see\n" * (LONGEST_CELL // 10)
    rows, rejects = rows_of(tmp_path, f'id,body\n1,"{body}"\n2,ok\n', "id", "body")
    assert rows == [("2", "ok")]
    assert [(reject.row, reject.reasons["*"]) for reject in rejects] == [
        (1, "has a cell of more than 1,048,576 characters")
    ]


def test_a_record_above_the_limit_ends_the_source(tmp_path: Path) -> None:
    body = "please,see\n" * (LONGEST_RECORD // 10)
    with pytest.raises(SourceUnreadable, match="record in line 2 has more than 4,194,304 characters"):
        rows_of(tmp_path, f'id,body\n1,"{body}"\n2,ok\n', "id", "body")


def test_a_line_without_an_end_is_not_read_into_memory(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match="line 2 has more than 4,194,304 characters"):
        rows_of(tmp_path, "id\n" + "1" * (LONGEST_RECORD + 1), "id")


@pytest.mark.parametrize(
    ("damaged", "lines"),
    [
        ('1,"12" screen",x\n', 1),  # the next quote before a delimiter closes it
        ('1,"Foo" Ltd,x\n', 1),  # nothing closes it, and the quotes of its line are even
        ('1,"say "hi" to\nplease,see,it\nall",x\n', 3),  # of many lines: none of them is a row
        ('1,"say ""hi" to\nplease,see,it\nall",x\n', 3),
        ('1,"open\n', 1),  # the next line has a cell of its own, in quotes
        ('1,"a"b","c"d",x\n', 1),
    ],
)
def test_a_stray_quote_costs_its_record_and_no_other(tmp_path: Path, damaged: str, lines: int) -> None:
    assert damaged.count("\n") == lines
    rows, rejects = rows_of(tmp_path, f'a,b,c\n{damaged}2,"ok",y\n3,c,d\n', "a", "b", "c")
    assert rows == [("2", "ok", "y"), ("3", "c", "d")]
    assert [(reject.row, reject.record) for reject in rejects] == [(1, damaged)]
    assert "quote within a quoted cell" in rejects[0].reasons["*"]


def test_many_stray_quotes_do_not_cost_the_rest_of_the_file_each_time(tmp_path: Path) -> None:
    count = 30_000  # to look for the end in the rest of the file for each would take minutes
    rows, rejects = rows_of(tmp_path, "a,b\n" + '1,"Foo" Ltd\n2,x\n' * count, "a", "b")
    assert (len(rows), len(rejects)) == (count, count)


def test_a_quote_that_is_never_closed_ends_the_source(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match=r"quoted cell that begins in line 3.*\(2 further lines\)"):
        rows_of(tmp_path, 'a,b\n1,x\n2,"open\n3,y\n4,z\n', "a", "b")


def test_a_quote_that_is_not_closed_in_the_last_line_is_a_reject(tmp_path: Path) -> None:
    rows, rejects = rows_of(tmp_path, 'a,b\n1,x\n2,"cut o', "a", "b")
    assert (rows, rejects[0].record) == ([("1", "x")], '2,"cut o')


def test_blanks_around_quotes_are_dropped(tmp_path: Path) -> None:
    rows, rejects = rows_of(tmp_path, 'a, "b", c\n1, "x, y" ,z\n', "a", "b", "c")
    assert (rows, rejects) == ([("1", "x, y", "z")], [])


def test_a_quote_within_a_cell_without_quotes_is_a_character(tmp_path: Path) -> None:
    assert rows_of(tmp_path, 'a,b\n5" pipe,x"y"\n', "a", "b") == ([('5" pipe', 'x"y"')], [])


def test_rows_of_nothing_but_delimiters_are_no_rows(tmp_path: Path) -> None:
    rows, rejects = rows_of(tmp_path, "a,b,c\n1,,\n,,\n , ,\n\n,,,,\n2,,\n", "a", "b", "c")
    assert (rows, rejects) == ([("1", "", ""), ("2", "", "")], [])


def test_null_of_databases_is_missing_only_without_quotes(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "NULL\n1\n", "NULL")[0] == [("1",)]  # a name is no value
    content = 'a,b\nNULL,"NULL"\n\\N,"\\N"\nNULLA,null\n"x",NULL\n NULL ," NULL "\n'
    assert rows_of(tmp_path, content, "a", "b")[0] == [
        (None, "NULL"),
        (None, "\\N"),
        ("NULLA", "null"),
        ("x", None),
        (None, " NULL "),
    ]


def test_a_job_that_names_spellings_of_missing_values_means_those_alone(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a\nNULL\n", "a", writing=Writing(missing=("NA",)))[0] == [("NULL",)]


def test_the_delimiter_is_what_the_first_line_says(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "sep=;\na;b\n1;2,5\n", "a", "b")[0] == [("1", "2,5")]
    assert rows_of(tmp_path, "\ufeffsep=\t\r\na\tb\r\n1\t2\r\n", "a", "b")[0] == [("1", "2")]


def test_the_delimiter_of_the_job_comes_before_that_of_the_first_line(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "sep=;\na|b\n1|2\n", "a", "b", writing=Writing(delimiter="|"))[0] == [("1", "2")]


def test_a_header_with_another_delimiter_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match=r"no columns a, b: it has a;b\. Its delimiter may be ';'"):
        rows_of(tmp_path, "a;b\n1;2\n", "a", "b")


def test_names_that_nobody_declared_may_be_repeated_or_long(tmp_path: Path) -> None:
    content = f"a,x,x,{'y' * 10_000},,\n1,2,3,4,5,6\n"
    assert rows_of(tmp_path, content, "a")[0] == [("1",)]
    with pytest.raises(SourceUnreadable, match="names the columns x more than once"):
        rows_of(tmp_path, content, "x")


@pytest.mark.parametrize("name", ["\ufeffid", "\u200bid", "id\u200b", " id\u00a0", "\u202aid\u202c", "\ufeff\ufeffid"])
def test_invisible_characters_around_a_name_are_no_part_of_it(tmp_path: Path, name: str) -> None:
    assert rows_of(tmp_path, f"{name},b\n1,2\n", "id")[0] == [("1",)]
    assert rows_of(tmp_path, "id,b\n1,2\n", name)[0] == [("1",)]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_may_be_written_with_composed_letters_or_not(tmp_path: Path, form: Literal["NFC", "NFD"]) -> None:
    name = unicodedata.normalize(form, "Größe é")
    assert rows_of(tmp_path, f"{name},b\n1,2\n", "Größe é")[0] == [("1",)]
    assert rows_of(tmp_path, "Größe é,b\n1,2\n", name)[0] == [("1",)]


def test_invisible_characters_within_a_name_are_shown(tmp_path: Path) -> None:
    with pytest.raises(SourceUnreadable, match=r"no columns user: it has us\\u200ber"):
        rows_of(tmp_path, "us\u200ber\n1\n", "user")


def test_a_column_that_may_be_absent_is_missing(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "a\n1\n", "a", "b", may_be_absent=True)[0] == [("1", None)]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("a,b\n1,Köln €\n".encode("cp1252"), "windows-1252"),
        ("a,b\n1,Köln €\n".encode("utf-16"), None),
        ("a,b\n1,Köln €\n".encode("utf-32"), None),
        ("a,b\n1,Köln €\n".encode("utf-8-sig"), "utf-8"),
        ("a,b\n1,Köln €\n".encode("utf-16-le"), "utf-16-le"),
    ],
)
def test_an_encoding_is_named_or_marked(tmp_path: Path, content: bytes, encoding: str | None) -> None:
    assert rows_of(tmp_path, content, "b", writing=Writing(encoding=encoding))[0] == [("Köln €",)]


def test_a_byte_that_is_not_of_the_encoding_is_told_with_its_place(tmp_path: Path) -> None:
    content = b"id,city\n" + b"".join(b"%d,x\n" % n for n in range(200_000)) + "7,K\u00f6ln\n".encode("cp1252")
    offset = content.index(b"\xf6")
    with pytest.raises(SourceUnreadable, match=f"byte 0xf6 in line 200002, offset {offset}"):
        rows_of(tmp_path, content, "id")
