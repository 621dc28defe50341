"""A service's exchange that does not take jobs is left out for a minute."""

import logging

import pytest

from jobkit.broker.detours import Detours
from jobkit.errors import Unroutable

MISSING = Unroutable("no exchange 'email.jobs' in vhost '/'")


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def detours(clock: Clock) -> Detours:
    return Detours(clock)


def test_a_missing_exchange_is_left_out_for_a_minute(detours: Detours, clock: Clock) -> None:
    assert detours.reason("email.jobs", "email") is None
    detours.open(MISSING, "email.jobs")
    clock.now += 59
    assert detours.reason("email.jobs", "email") is MISSING
    assert detours.reason("email.jobs", "email.high") is MISSING
    assert detours.reason("images.jobs", "images") is None
    clock.now += 2
    assert detours.reason("email.jobs", "email") is None


def test_a_missing_binding_concerns_its_queue_alone(detours: Detours) -> None:
    detours.open(MISSING, "email.jobs", "email.high")
    assert detours.reason("email.jobs", "email.high") is MISSING
    assert detours.reason("email.jobs", "email") is None


def test_an_exchange_that_was_made_is_used_at_once(detours: Detours) -> None:
    for exchange, queue in (("email.jobs", ""), ("email.jobs", "email.high"), ("images.jobs", "")):
        detours.open(MISSING, exchange, queue)
    detours.close("email.low")
    assert detours.reason("email.jobs", "email.high") is None
    assert detours.reason("images.jobs", "images") is MISSING


def test_a_detour_is_told_once_for_each_service(detours: Detours, caplog: pytest.LogCaptureFixture) -> None:
    for exchange in ("email.jobs", "images.jobs", "email.jobs"):
        detours.tell(exchange)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.split("'")[1] for line in said] == ["email.jobs", "images.jobs"]
