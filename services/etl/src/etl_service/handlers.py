"""The three steps of a run as plain functions; each leaves its result in storage and sends the next step."""

import hashlib
import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pyarrow.parquet as pq  # type: ignore[import-untyped]  # ships no types
from pydantic import BaseModel, TypeAdapter, ValidationError

from etl_service.adapters.files import Files, scratch
from etl_service.adapters.packed import unpack
from etl_service.adapters.rounded import ROUNDED, rounded_of
from etl_service.adapters.warehouse import Warehouse
from etl_service.adapters.web import Web
from etl_service.casting import cast, schema
from etl_service.errors import NothingToLoad, SourceUnreadable, TooManyRejects
from etl_service.sources.batch import Reject
from etl_service.sources.reader import read
from etl_service.sources.text import served_encoding
from etl_service.sources.writing import Writing
from jobkit.contracts.etl import LoadTable, RunId, RunPipeline, SourceJob, TableJob, TransformTable
from jobkit.contracts.job import Job

Send = Callable[[Job], object]
Progress = Callable[[float], object]


class Extracted(BaseModel):
    """Result of the first step: the run's id, and where the copy of the source is."""

    run_id: str
    extract: str
    bytes: int


class Transformed(BaseModel):
    """Result of the second step: how many rows are typed, how many are not, and where both are."""

    run_id: str
    rows: str
    rows_typed: int
    rows_rejected: int
    rejects: str | None


class Loaded(BaseModel):
    """Result of the third step.

    Every row of the source is counted once: loaded, rejected, or superseded by a later one with the same key.
    """

    run_id: str
    table: str
    rows_loaded: int
    rows_superseded: int
    rows_rejected: int
    rejects: str | None
    already_loaded: bool


def run_pipeline(
    job: RunPipeline, job_id: str, files: Files, web: Web, *, max_bytes: int, send: Send, progress: Progress
) -> Extracted:
    """Copy the source, so that later steps and re-runs see one and the same content, and send ``TransformTable``.

    Raises what ``Files`` and ``Web`` raise.
    """
    run_id = run_id_of(job_id)
    with scratch() as folder:
        copy, charset = folder / "source", None
        if job.source.lower().startswith(("http://", "https://")):
            charset = web.download(job.source, copy, limit=max_bytes)
        else:
            files.download(job.source, copy, limit=max_bytes)
        unpack(copy, limit=max_bytes)
        size = copy.stat().st_size
        progress(80)
        encoding = job.encoding or (None if job.format == "parquet" else served_encoding(copy, charset))
        extract = files.upload(copy, folder=_folder(run_id), name=f"extract.{job.format}")
    told = {name: getattr(job, name) for name in SourceJob.model_fields} | {"encoding": encoding}
    send(TransformTable(run_id=run_id, extract=extract, **told))
    return Extracted(run_id=run_id, extract=extract, bytes=size)


def transform_table(job: TransformTable, files: Files, *, send: Send, progress: Progress) -> Transformed:
    """Split the extract into typed rows (Parquet) and rejects (JSON Lines), and send ``LoadTable``.

    Raises:
        SourceUnreadable: the extract as a whole is not what the job says.
        TooManyRejects: more rows are rejected than the job allows. They are kept in storage.
        NothingToLoad: there is no row to replace those of the table with, and the job does not allow that.
    """
    with scratch() as folder:
        extract, rows, rejects = folder / "extract", folder / "rows.parquet", folder / "rejects.jsonl"
        files.download(job.extract, extract)
        typed, rejected = _split(job, extract, rows, rejects, progress)
        rejects_key = files.upload(rejects, folder=_folder(job.run_id), name=rejects.name) if rejected else None
        _refuse_loss(job, typed, rejected, rejects_key, rejects)
        rows_key = files.upload(rows, folder=_folder(job.run_id), name=rows.name)
    told = {name: getattr(job, name) for name in TableJob.model_fields}
    send(LoadTable(run_id=job.run_id, rows=rows_key, rejects=rejects_key, rows_rejected=rejected, **told))
    return Transformed(run_id=job.run_id, rows=rows_key, rows_typed=typed, rows_rejected=rejected, rejects=rejects_key)


def load_table(job: LoadTable, job_id: str, files: Files, warehouse: Warehouse, *, progress: Progress) -> Loaded:
    """Load the typed rows, marked with actor and ``job_id``; a second call with the same id changes nothing.

    Raises what ``Files`` and ``Warehouse`` raise.
    """
    mark = f"{job.actor}/{job_id}"  # ids are unique per actor, and the table of marks is not this service's alone
    outcome = warehouse.outcome(mark)  # before the download, as the rows may be cleaned away after a load
    if outcome is None:
        with scratch() as folder:
            rows = folder / "rows.parquet"
            files.download(job.rows, rows)
            outcome = warehouse.load(mark, job, rows, progress=progress)
    return Loaded(
        run_id=job.run_id,
        table=job.table,
        rows_loaded=outcome.rows_loaded,
        rows_superseded=outcome.rows_superseded,
        rows_rejected=job.rows_rejected,
        rejects=job.rejects,
        already_loaded=outcome.already_loaded,
    )


def run_id_of(job_id: str) -> str:
    """The run's name in storage: the first job's id, or its digest if it would not do as a folder."""
    try:
        return TypeAdapter(RunId).validate_python(job_id)
    except ValidationError:
        return hashlib.sha256(job_id.encode()).hexdigest()[:32]


def _folder(run_id: str) -> str:
    return f"runs/{run_id}"


def _refuse_loss(job: TransformTable, typed: int, rejected: int, key: str | None, rejects: Path) -> None:
    """Raise if the job does not allow a load of so few rows."""
    if rejected > _allowed_rejects(job, typed + rejected):
        raise TooManyRejects(
            f"{rejected} of {typed + rejected} rows are rejected, and max_rejected allows {_shown_limit(job)}: "
            f"{_first_reason(rejects)}. All are in {key}"
        )
    if job.mode == "replace" and not typed and (rejected or not job.allow_empty):
        why = f"all {rejected} rows are rejected" if rejected else "the source has no row, and allow_empty is not set"
        raise NothingToLoad(f"table {job.table!r} is not emptied: {why}")


def _allowed_rejects(job: TransformTable, rows: int) -> float:
    if job.max_rejected is None:
        return 0 if job.mode == "replace" else math.inf
    return job.max_rejected * rows if isinstance(job.max_rejected, float) else job.max_rejected


def _shown_limit(job: TransformTable) -> str:
    if job.max_rejected is None:
        return "none with mode='replace'"
    return f"{job.max_rejected:.1%}" if isinstance(job.max_rejected, float) else str(job.max_rejected)


def _first_reason(rejects: Path) -> str:
    with rejects.open(encoding="utf-8") as file:
        first = json.loads(file.readline())
    reasons = "; ".join(f"{name} {reason}" if name != "*" else reason for name, reason in first["reasons"].items())
    return f"row {first['row']} {reasons[:300]}"


def _split(job: TransformTable, extract: Path, rows: Path, rejects: Path, progress: Progress) -> tuple[int, int]:
    typed = rejected = 0
    well_formed, first = False, None
    writing = Writing.of(job)
    rounded: dict[str, int] = {}
    with ExitStack() as stack:
        writer = stack.enter_context(pq.ParquetWriter(rows, schema(job.columns), compression="zstd"))
        rejects_file = stack.enter_context(rejects.open("w", encoding="utf-8"))
        for batch in read(extract, job.format, job.columns, writing, allow_empty=job.allow_empty):
            good, bad = cast(batch.frame(), job.columns, job.key, writing)
            rounded = rounded_of(good.schema.metadata) | rounded  # the first row of each column stays
            writer.write_table(good)
            all_bad = sorted([*batch.rejects, *bad], key=lambda reject: reject.row)
            rejects_file.writelines(_line(reject) for reject in all_bad)
            typed += good.num_rows
            rejected += len(all_bad)
            well_formed = well_formed or bool(batch.rows)
            first = first or next(iter(batch.rejects), None)
            progress(90 * batch.done)
        if rounded:
            writer.add_key_value_metadata({ROUNDED: json.dumps(rounded)})
    if first and not well_formed:
        reasons = "; ".join(first.reasons.values())
        raise SourceUnreadable(f"no row of the source can be read as {job.format}: row {first.row} {reasons[:300]}")
    return typed, rejected


def _line(reject: Reject) -> str:
    return (
        json.dumps({"row": reject.row, "reasons": reject.reasons, "record": reject.record}, ensure_ascii=False) + "\n"
    )
