"""``etl-service inspect SOURCE``: what a source looks like, and the job that would read it."""

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from etl_service.adapters.files import scratch
from etl_service.adapters.packed import unpack
from etl_service.adapters.resources import open_resources
from etl_service.inspection import SAMPLE, Inspection, inspect
from etl_service.settings import EtlSettings
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import Column, Format
from jobkit.errors import JobkitError

#: Fields of a job that are shown in any case.
_ALWAYS = ("source", "format", "table")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        with _copy(options.source) as path:
            writing = Writing(delimiter=options.delimiter, encoding=options.encoding)
            name = Path(options.source).name if Path(options.source).is_file() else options.source
            found = inspect(path, name, form=options.format, writing=writing)
    except (JobkitError, OSError, ValueError) as error:
        sys.stderr.write(f"etl-service: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in _report(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="etl-service", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "inspect",
        help="print format, encoding, delimiter and types of a source, and the job that would read it",
        description=f"Looks at the first {SAMPLE:,} rows of a source. It loads nothing.",
    )
    command.add_argument(
        "source", help="a local file, a key in ETL_STORAGE_URL, or a URL on one of ETL_HTTP_HOSTS; it may be packed"
    )
    command.add_argument("--format", choices=get_args(Format), help="if it cannot be told from the contents")
    command.add_argument("--delimiter", help="of a CSV file, if the guess is wrong")
    command.add_argument("--encoding", help="of a text, if the guess is wrong")
    return parser


@contextmanager
def _copy(source: str) -> Iterator[Path]:
    with scratch() as folder:
        copy = folder / "source"
        if Path(source).is_file():
            shutil.copyfile(source, copy)
            unpack(copy, limit=sys.maxsize)
        else:
            settings = EtlSettings.load()
            with open_resources(settings) as own:
                if source.lower().startswith(("http://", "https://")):
                    own.web.download(source, copy, limit=own.max_bytes)
                else:
                    own.files.download(source, copy, limit=own.max_bytes)
            unpack(copy, limit=settings.max_bytes)
        yield copy


def _report(found: Inspection) -> Iterator[str]:
    job = found.job
    yield f"format     {job.format}"
    if found.encoding:
        yield f"encoding   {found.encoding}"
    if job.format == "csv":
        yield f"delimiter  {job.delimiter!r}"
    yield f"rows       {found.rows:,}{'' if found.whole else ' looked at, of more'}"
    yield "columns"
    width = max(len(column.source) for column in job.columns)
    for column in job.columns:
        yield f"  {column.source:{width}}  {_type(column)}{f', as {column.format}' if column.format else ''}"
    for note in found.notes:
        yield f"note: {note}"
    yield ""
    yield "from jobkit.contracts.etl import Column, RunPipeline"
    yield ""
    yield "RunPipeline("
    for name in type(job).model_fields:
        value = getattr(job, name)
        if name == "columns":
            yield "    columns=("
            yield from (f"        {_shown(column)}," for column in job.columns)
            yield "    ),"
        elif name in _ALWAYS or value != type(job).model_fields[name].default:
            yield f"    {name}={value!r},"
    yield ")"


def _type(column: Column) -> str:
    return f"decimal({column.precision}, {column.scale})" if column.type == "decimal" else column.type


def _shown(column: Column) -> str:
    given = column.model_dump(exclude_defaults=True)
    return f"Column({', '.join(f'{name}={value!r}' for name, value in given.items())})"
