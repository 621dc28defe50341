"""How a source is written: what a job says about it beside its columns."""

from dataclasses import dataclass, fields
from typing import Self

from jobkit.contracts.etl import SourceJob

#: Cells without quotes that databases write into CSV for a missing value (MySQL, PostgreSQL's text format, SQL Server).
DATABASE_NULLS = frozenset({"NULL", r"\N"})


@dataclass(frozen=True)
class Writing:
    """The options of ``SourceJob``, which see."""

    delimiter: str | None = None
    encoding: str | None = None
    decimal_mark: str = "."
    thousands_mark: str = ""
    missing: tuple[str, ...] | None = None

    @classmethod
    def of(cls, job: SourceJob) -> Self:
        """The options of a job."""
        return cls(**{option.name: getattr(job, option.name) for option in fields(cls)})


#: For a job that says nothing about it.
AS_USUAL = Writing()
