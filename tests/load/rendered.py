"""Figures as Markdown."""

import math
import textwrap
from collections.abc import Iterable, Sequence

from quantiles import Spread


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, text: bool = False) -> str:
    """Return a table. Its columns but the first are numbers, or text."""
    rule = "|".join(["", "---", *("---" if text else "---:" for _ in head[1:]), ""])
    return "\n".join([line(head), rule, *(line(row) for row in rows)])


def line(cells: Sequence[str]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(cells)} |"


def prose(text: str) -> str:
    """Return a paragraph in lines of at most 120 signs."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def spread(values: Sequence[float]) -> str:
    """Return the median of some rounds, with the least and the most."""
    found = Spread.of(values)
    if len(values) == 1:
        return number(found.median)
    return f"{number(found.median)} ({number(found.least)} to {number(found.most)})"


def ratios(ours: Iterable[float], theirs: Iterable[float]) -> list[float]:
    """Return the ratios of two systems, round by round; NaN where the peer's figure is too small to measure."""
    return [mine / other if other else math.nan for mine, other in zip(ours, theirs, strict=True)]


def number(value: float) -> str:
    """Return three digits that mean something, without an exponent."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def counted(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
