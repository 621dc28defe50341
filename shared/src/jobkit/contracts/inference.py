"""Jobs of the inference service: train a model, publish one of its versions, and predict with it."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, FailFast, Field, FiniteFloat, StringConstraints, model_validator

from jobkit.contracts.job import Job

MAX_ROWS = 1000  #: Rows in one job; the answers are recorded with the job, so they must stay small.
MAX_FEATURES = 4096  #: Numbers in one row: above it the data belongs into storage, not into a message.
MAX_NAME = 200  #: Characters in a column's name.
MAX_MESSAGE = 1_048_576  #: Bytes of a message, the default of ``JOBKIT_MAX_MESSAGE_BYTES``.

_AROUND = 8_192  #: Bytes of a message around its rows: names, ids, the trace, and what its copies gain.

#: A model's name is a folder in storage and a word on the command line.
ModelName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]

#: A published model, told apart by the SHA-256 of its ONNX file.
ModelDigest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]

#: A relative path in the service's storage; no part of it starts with a dot, so it cannot lead out.
DatasetKey = Annotated[
    str,
    StringConstraints(
        max_length=512, pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\.(npz|csv|parquet)$"
    ),
]

#: A column's name, as the data set has it.
ColumnName = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]


def _in_order(value: object) -> object:
    """Refuse what has no order of its own: Pydantic makes a list of a set, too."""
    if callable(tolist := getattr(value, "tolist", None)):  # an array of NumPy, a column of pandas
        value = tolist()
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return value if isinstance(value, list) else list(value)
    raise ValueError(f"give a list, in which the order is fixed, and not a {type(value).__name__}")


def _exact(row: object) -> object:
    """Refuse whole numbers that would become other ones: features are 64-bit floats."""
    ordered = _in_order(row)
    if isinstance(ordered, list):
        for place, number in enumerate(ordered, start=1):
            whole = None if type(number) is float else number if type(number) is int else _whole(number)
            if whole is not None and not -(2**53) <= whole <= 2**53 and not _is_float(whole):
                raise ValueError(
                    f"value {place}, {whole}, is no 64-bit float: the nearest is another number. Subtract an offset "
                    "from such ids and time stamps, in the data set too"
                )
    return ordered


def _whole(number: object) -> int | None:
    """The whole number that a text, or a number of another type, stands for; None if it stands for none."""
    try:
        exact: Any = Decimal(number) if isinstance(number, str) else number
        if isinstance(exact, Decimal) and not abs(exact) < 2**1024:  # above all floats: refused as not finite
            return None
        whole = int(exact)
    except (ArithmeticError, TypeError, ValueError):
        return None
    return whole if whole == exact else None


def _is_float(number: int) -> bool:
    try:
        return int(float(number)) == number
    except OverflowError:  # above all floats
        return False


# The first wrong number is enough: to note all that fit into a message takes hundreds of megabytes.
Row = Annotated[list[FiniteFloat], FailFast(), Field(min_length=1, max_length=MAX_FEATURES), BeforeValidator(_exact)]


class TrainModel(Job, queue="inference.training"):
    """Train a classifier on a data set and publish it.

    The data set is one of these files, with numbers as features and one whole number or string per row as label:

    - a NumPy ``.npz`` file without pickled objects. It holds the arrays ``features`` (rows x features) and ``labels``,
      and may hold ``feature_names`` and ``groups`` (one whole number or string per row).
    - a ``.csv`` file with a header, or a ``.parquet`` file. ``label_column`` has the labels, ``group_column`` the
      groups, and all other columns are features.

    Rows of one group are either all trained on or all held out, and so are equal rows. The same job on the same data
    gives the same model.
    """

    model: ModelName
    dataset: DatasetKey
    epochs: int = Field(default=20, ge=1, le=1000, description="Passes over the training rows.")
    learning_rate: float = Field(default=0.005, gt=0, le=1, description="Step size of Adam.")
    batch_size: int = Field(default=32, ge=1, le=10_000, description="Rows for one step of the optimiser.")
    hidden_units: int = Field(default=64, ge=1, le=1024, description="Width of the one hidden layer.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Decides the split, the start weights and the row order.")
    holdout: float = Field(default=0.2, gt=0, lt=1, description="Part of each label's rows kept back for the accuracy.")
    label_column: ColumnName = Field(default="label", description="Of a CSV or Parquet file: the labels.")
    group_column: ColumnName | None = Field(default=None, description="Of a CSV or Parquet file: the groups, if any.")
    on_changed_data: Literal["fail", "restart"] = Field(
        default="fail",
        description=(
            "If the file changes while the training goes on: end the job with that reason, or begin again, once."
        ),
    )
    publish: Literal["better", "latest", "candidate"] = Field(
        default="better",
        description=(
            "better: becomes the latest version unless the latest one is better. latest: becomes the latest in any "
            "case. candidate: can be asked by its digest alone, until PromoteModel makes it the latest. A job never "
            "displaces the version of a job that was sent after it."
        ),
    )
    at_least: float | None = Field(
        default=None, ge=0, le=1, description="Accuracy below which the model is published as a candidate."
    )


class PromoteModel(Job, queue="inference"):
    """Make a version of a model its latest: an older one again, or a candidate.

    Trainings that were sent before this job do not displace it any more. Those that are sent after it do.
    """

    model: ModelName
    digest: ModelDigest


class RemoveOldCheckpoints(Job, queue="inference.training"):
    """Delete the checkpoints of trainings that have saved none for a while.

    A training deletes its checkpoints when it has published its model, so these belong to trainings that died. Such a
    training can still be retried, and begins with its first epoch. The service runs this job each night.
    """

    days: int = Field(default=30, ge=1, le=3650, description="Days since the training's last checkpoint.")


class PredictBatch(Job, queue="inference"):
    """Predict a label with a confidence for each row of inputs.

    Without ``digest`` the model's latest version answers. All rows have the same number of features. With ``columns``,
    the service checks their names against those of the data set, and puts them into its order. Rows may also be given
    as mappings from column to number.

    A message holds 1 MiB by default, some 50,000 measured values: ``in_parts`` makes batches of that size.
    """

    model: ModelName
    digest: ModelDigest | None = None
    columns: Annotated[list[ColumnName], BeforeValidator(_in_order), Field(max_length=MAX_FEATURES)] | None = None
    inputs: Annotated[list[Row], FailFast(), BeforeValidator(_in_order)] = Field(min_length=1, max_length=MAX_ROWS)

    @classmethod
    def in_parts(
        cls,
        inputs: Iterable[Sequence[float] | Mapping[str, float]],
        *,
        model: str,
        max_bytes: int = MAX_MESSAGE,
        **fields: Any,
    ) -> Iterator[Self]:
        """Yield batches of any number of rows, in their order, each of which fits into a message.

        Args:
            inputs: The rows, as sequences or as mappings from column to number; a generator is read as the batches are.
            model: Its name.
            max_bytes: The largest message: the broker's limit, if yours is not the default.
            fields: The other fields of each batch.

        Raises:
            ValueError: One row alone does not fit.
        """
        part: list[Sequence[float] | Mapping[str, float]] = []
        used = room = 0
        for number, row in enumerate(inputs, start=1):
            if number == 1:
                if isinstance(row, Mapping) and fields.get("columns") is None:
                    fields["columns"] = list(row)
                room = max_bytes - _AROUND - len(json.dumps(fields.get("columns")))
            values = row.values() if isinstance(row, Mapping) else row
            size = sum(len(repr(float(value))) + 1 for value in values) + 3
            if size > room:
                raise ValueError(f"row {number} has {size:,} bytes as JSON, and {room:,} fit into a message")
            if part and (used + size > room or len(part) == MAX_ROWS):
                yield cls(model=model, inputs=part, **fields)
                part, used = [], 0
            part.append(row)
            used += size
        if part:
            yield cls(model=model, inputs=part, **fields)

    @model_validator(mode="before")
    @classmethod
    def _rows_may_be_mappings(cls, data: Any) -> Any:  # Any: whatever the caller gave
        rows = data.get("inputs") if isinstance(data, dict) else None
        if not isinstance(rows, list | tuple) or not rows or not isinstance(rows[0], Mapping):
            return data
        columns = list(rows[0]) if data.get("columns") is None else _in_order(data["columns"])
        if not isinstance(columns, list):
            return data
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping) or row.keys() != set(columns):
                raise ValueError(
                    f"row {number} does not have the columns {', '.join(map(str, columns))}: give it these"
                )
        return {**data, "columns": columns, "inputs": [[row[column] for column in columns] for row in rows]}

    @model_validator(mode="after")
    def _rows_are_equally_long(self) -> Self:
        width = len(self.inputs[0])
        for number, row in enumerate(self.inputs, start=1):
            if len(row) != width:
                raise ValueError(f"row {number} has {len(row)} features and row 1 has {width}: make them equally long")
        if self.columns is not None:
            if len(self.columns) != width:
                raise ValueError(f"there are {len(self.columns)} columns and {width} features in a row: name each")
            if len(set(self.columns)) < width:
                twice = next(name for name in self.columns if self.columns.count(name) > 1)
                raise ValueError(f"column {twice!r} is named twice: give each a name of its own")
        return self
