"""A stage with running workers."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from embedded_stage import Stage

from jobkit.middleware import idempotency


@pytest.fixture
def brief_deferrals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a copy that finds its job held ask again soon."""
    monkeypatch.setattr(idempotency, "LONGEST_DEFERRAL", timedelta(seconds=0.02))


@pytest.fixture
def stage() -> Iterator[Stage]:
    built = Stage()
    built.start()
    yield built
    built.stop()
