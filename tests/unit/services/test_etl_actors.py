"""What the actors add to the handlers: breakers, and an end to what is too long."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import pytest

from etl_service import handlers
from etl_service.actors import STORAGE, WAREHOUSE, service, transform_table
from etl_service.adapters.resources import Resources
from etl_service.errors import (
    DatabaseDown,
    DatabaseUnavailable,
    DiskFull,
    SourceChanged,
    SourceMissing,
    StorageTrouble,
    StorageUnavailable,
    TransformTooLong,
)
from jobkit.context import Context
from jobkit.contracts.etl import Column, TransformTable
from jobkit.errors import TimeLimitExceeded

JOB = TransformTable(run_id="r", extract="e", format="csv", table="t", columns=(Column(name="a", type="text"),))


@dataclass
class Run:
    """As much of a ``Context`` as the actor uses."""

    attempt: int
    remembered: dict[str, str] = field(default_factory=dict)
    resources: object = field(default_factory=lambda: SimpleNamespace(files=None))

    def remember(self, name: str, value: str) -> str:
        return self.remembered.setdefault(name, value)

    def send(self, _job: object) -> None: ...

    def progress(self, _percent: float) -> None: ...


def test_a_transform_that_runs_into_its_time_limit_twice_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(*_: object, **__: object) -> None:
        raise TimeLimitExceeded

    monkeypatch.setattr(handlers, "transform_table", too_long)
    first = Run(attempt=3)  # two attempts met an outage
    with pytest.raises(TimeLimitExceeded):
        transform_table(JOB, cast("Context[Resources]", first))
    second = Run(attempt=4, remembered=first.remembered)
    with pytest.raises(TransformTooLong, match="split the source"):
        transform_table(JOB, cast("Context[Resources]", second))
    assert not service.actors["transform_table"].retry.retries(TransformTooLong())


def test_only_outages_speak_against_the_storage_and_the_database() -> None:
    assert STORAGE.trips(StorageUnavailable())
    assert not any(STORAGE.trips(error) for error in (StorageTrouble(), SourceMissing(), SourceChanged(), DiskFull()))
    assert WAREHOUSE.trips(DatabaseDown())
    assert not WAREHOUSE.trips(DatabaseUnavailable())


def test_what_may_pass_is_retried() -> None:
    for name in ("run_pipeline", "transform_table", "load_table"):
        policy = service.actors[name].retry
        assert all(policy.retries(error) for error in (SourceChanged(), StorageTrouble(), DatabaseUnavailable()))
