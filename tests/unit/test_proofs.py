"""The page of ``make prove`` tells the truth about its tests."""

from pathlib import Path

import pytest
from proofs import Proofs, page

TESTS = """
import pytest

@pytest.mark.prove("addition", size="2 numbers")
@pytest.mark.parametrize("number", [1, 2])
def test_addition(number):
    assert number + 1 == 2

@pytest.mark.prove("set-up", size="1 fixture")
def test_with_a_fixture_that_fails(broken):
    pass

@pytest.fixture
def broken():
    raise ValueError

def test_without_a_mark():
    pass
"""


def test_each_marked_test_has_a_row_with_its_case_size_and_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)  # it is for the run around this one
    file = tmp_path / "test_some.py"
    file.write_text(TESTS)
    proofs = Proofs()
    markers = ["-o", "markers=prove(title, size): of this test", "-p", "no:cacheprovider", "-p", "no:terminal"]
    status = pytest.main([*markers, "--rootdir", str(tmp_path), "-c", "/dev/null", str(file)], plugins=[proofs])
    assert status == pytest.ExitCode.TESTS_FAILED
    lines = [line.rpartition("|")[0].rpartition("|")[0] for line in page(list(proofs.rows())).splitlines()]
    assert [line.strip() for line in lines if line.startswith(("| addition", "| set-up"))] == [
        "| addition | 1 | 2 numbers | passed",
        "| addition | 2 | 2 numbers | failed",
        "| set-up |  | 1 fixture | failed",
    ]
