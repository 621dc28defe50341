"""The table: a data set that ships inside scikit-learn, with bad rows added, through extract, transform and load."""

import csv
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from board import Board
from stage import Finding

from jobkit.contracts.etl import INBOX_TABLE, Column, LoadTable, RunPipeline
from jobkit.receipt import Receipt

SOURCE = "incoming/tumours.csv"
TABLE = "tumours"

#: Rows that must not get in, by what is wrong with each: the column, and its cell.
BAD_ROWS = {
    "no number": ("mean_radius", "n/a"),
    "not finite": ("mean_area", "inf"),
    "no sample number": ("sample", ""),
    "no diagnosis": ("diagnosis", " "),
}


class Tables:
    """The table.

    Args:
        folder: The etl service's storage.
        database: The SQLite file that the service loads into.
    """

    title = "Table"

    def __init__(self, folder: Path, database: Path) -> None:
        self._folder = folder
        self._database = database
        self._features: list[str] = []
        self._expected: list[tuple[int, str]] = []
        self._loaded: dict[str, object] = {}
        self._loads_before = 0

    @property
    def place(self) -> Path:
        """The database."""
        return self._database

    def prepare(self) -> None:
        """Write the CSV, the bad rows between the good ones, the diagnoses in need of trimming and lower case."""
        # Imported here, beside the start of the backing services: it takes a second.
        from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]  # ships no types

        data = load_breast_cancer()
        self._features = [str(name).replace(" ", "_") for name in data.feature_names]
        names = ["sample", "diagnosis", *self._features]
        good = []
        for number, (features, target) in enumerate(zip(data.data, data.target, strict=True), start=1):
            diagnosis = str(data.target_names[target])
            self._expected.append((number, diagnosis))
            good.append([str(number), f" {diagnosis.upper()} ", *(repr(float(value)) for value in features)])
        rows = list(good)
        for position, (column, cell) in enumerate(BAD_ROWS.values(), start=1):
            bad = [str(len(good) + position), *good[position][1:]]
            bad[names.index(column)] = cell
            rows.insert(position * 100, bad)
        source = self._folder / SOURCE
        source.parent.mkdir(parents=True, exist_ok=True)
        with source.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])

    def run(self, board: Board) -> None:
        """Run the pipeline, wait for its last step, then send the very same pipeline again."""
        job = self._job()
        title = f"{len(self._expected) + len(BAD_ROWS)} rows of CSV (pipeline sent twice)"
        pipeline = board.send(title, job, key="tumours")
        board.done(pipeline)
        # The steps send each other; the last one leaves its id in the database, beside the rows.
        board.until(lambda: bool(self._loads()))
        load_id = self._loads()[0]
        load = board.follow("last step: load into SQLite", Receipt(load_id, LoadTable.actor, LoadTable.queue))
        record = board.done(load)
        self._loaded = json.loads(record.result)
        self._loads_before = len(self._loads())
        board.send(title, job, key="tumours", again=True)

    def headline(self) -> str:
        """How many rows went which way."""
        return f"{self._loaded['rows_loaded']} rows loaded, {self._loaded['rows_rejected']} rejected"

    def findings(self) -> Iterator[Finding]:
        """Count the rows with SQLite's own module, and read the rejects."""
        with closing(sqlite3.connect(self._database)) as database:
            rows = database.execute(f"SELECT sample, diagnosis FROM {TABLE} ORDER BY sample").fetchall()  # noqa: S608  a constant of ours
        wanted = len(self._expected)
        recorded = self._loaded["rows_loaded"] == len(rows)
        yield Finding(
            f"{len(rows)} of {wanted} good rows are in table “{TABLE}”, typed and normalised",
            rows == self._expected and recorded,
        )
        rejects = [json.loads(line) for line in self._rejects().read_text().splitlines()]
        columns = [next(iter(reject["reasons"]), "") for reject in rejects]
        yield Finding(
            f"{len(rejects)} of {len(BAD_ROWS)} bad rows are kept aside, each with its reason",
            columns == [column for column, _ in BAD_ROWS.values()],
        )
        loads = len(self._loads())
        yield Finding(
            f"the same pipeline sent again changed nothing: {loads} load in the inbox, {len(rows)} rows",
            loads == self._loads_before == 1 and len(rows) == wanted,
        )

    def _job(self) -> RunPipeline:
        return RunPipeline(
            source=SOURCE,
            format="csv",
            table=TABLE,
            key=("sample",),
            columns=(
                Column(name="sample", type="integer"),
                Column(name="diagnosis", type="text", required=True, case="lower"),
                *(Column(name=name, type="number", required=True) for name in self._features),
            ),
        )

    def _loads(self) -> list[str]:
        try:
            with closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True, timeout=2)) as database:
                marks = database.execute(f"SELECT key FROM {INBOX_TABLE}").fetchall()  # noqa: S608  a constant of ours
        except sqlite3.OperationalError:  # no database yet, or no table in it
            return []
        return [str(mark).removeprefix(f"{LoadTable.actor}/") for (mark,) in marks]

    def _rejects(self) -> Path:
        return self._folder / str(self._loaded["rejects"])
