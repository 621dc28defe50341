"""What becomes of a test whose server is not installed: it fails, unless skipping was asked for."""

import os
from collections.abc import Generator

import pytest

from local_stack.errors import MissingPackages

SWITCH = "SKIP_MISSING_SERVERS"  #: Set to 1 to skip. `make test` then installs nothing.


def may_skip() -> bool:
    """Whether the person who started the tests allows skipping."""
    return os.environ.get(SWITCH) == "1"


def _skip_if_allowed() -> Generator[None, object, object]:
    try:
        return (yield)
    except MissingPackages as error:
        if may_skip():
            pytest.skip(str(error))
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, object, object]:
    """Judge a fixture that starts a server."""
    return (yield from _skip_if_allowed())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Judge a test that starts a server of its own."""
    return (yield from _skip_if_allowed())
