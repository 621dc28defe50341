"""What the commands print: plain ``name: value`` lines that are never cut, or one JSON document."""

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

import typer


def print_blocks(blocks: Iterable[Mapping[str, str]]) -> None:
    """Print one line for each name that has a value, and an empty line between blocks."""
    for number, block in enumerate(blocks):
        if number:
            typer.echo()
        for name, value in block.items():
            if value:
                typer.echo(f"{name}: {_printable(value)}")


def print_json(document: object) -> None:
    """Print one document, in ASCII."""
    typer.echo(json.dumps(document, indent=2))


def times(count: int) -> str:
    """How often, for people; empty for never."""
    if not count:
        return ""
    return "once" if count == 1 else f"{count} times"


def moment(milliseconds: int) -> datetime | None:
    """A time of a record; None for 0, which stands for never."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None


def readable(time: datetime | None) -> str:
    """For people, in UTC, to the second; empty for None."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if time else ""


def iso(time: datetime | None) -> str | None:
    """For programs: ISO 8601 in UTC."""
    return time.astimezone(UTC).isoformat(timespec="milliseconds") if time else None


def _printable(text: str) -> str:
    # A failure's text may hold anything; on a terminal, control characters could rewrite what stands above.
    lines = text.rstrip().split("\n")
    return "\n  ".join("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line) for line in lines)
