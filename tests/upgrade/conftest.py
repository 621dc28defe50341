"""What the upgrade tests share: the versions, and what runs in a test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet import Fleet
from versions import WHEELS, Versions


@pytest.fixture(scope="session", params=WHEELS, ids=lambda wheel: wheel.name.split("-")[1])
def versions(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    """An earlier version and this one; each test runs once for each wheel in ``tests/upgrade/before``."""
    wheel: Path = request.param
    return Versions.unpack(wheel, tmp_path_factory.mktemp("versions"))


@pytest.fixture
def fleet(tmp_path: Path, vhost_url: str, redis_url: str) -> Iterator[Fleet]:
    """Starts workers, clients and schedulers of any version; none of them outlives the test."""
    with Fleet(tmp_path, vhost_url, redis_url) as built:
        yield built
