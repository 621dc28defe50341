"""The page of performance says what the benchmark has measured."""

from documentation import ROOT
from performance_page import page
from results import Results

REFERENCE = ROOT / "docs/reference"


def test_the_page_is_written_from_the_figures_beside_it() -> None:
    results = Results.read(REFERENCE / "performance.json")
    assert results.short is not None
    assert (REFERENCE / "performance.md").read_text() == page(results)
