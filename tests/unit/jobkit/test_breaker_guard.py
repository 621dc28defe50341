"""When a breaker is asked before a job runs, and when the lease has said enough."""

import threading
from datetime import timedelta

import pytest
from dramatiq import Message

from jobkit.breaker.breaker import CircuitBreaker
from jobkit.breaker.switches import Closed, MemorySwitches, Open, Probe
from jobkit.effects import take
from jobkit.errors import TransientError
from jobkit.execution import Execution
from jobkit.middleware.breakers import Breakers, CircuitOpen
from jobkit.patience import Patience, perform
from jobkit.store.base import JobKey, Lease
from jobkit.time import minutes, seconds

BREAKER = CircuitBreaker("smtp", failures=2)
NAME = "email/smtp"
LIMIT = minutes(1)


class Watched(MemorySwitches):
    """Counts the questions whether a job may run."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def ask(self, name: str, owner: str, *, probe_for: timedelta) -> Closed | Open | Probe:
        self.asked += 1
        return super().ask(name, owner, probe_for=probe_for)


class Office:
    """One worker process, beside others that open and close the breaker too."""

    def __init__(self) -> None:
        self.switches = Watched()
        patience = Patience(threading.Event(), threading.Event())
        self.breakers = Breakers(self.switches, patience, "email", excused_for=minutes(60))

    def delivery(self, name: str = "a", *, breaker_open: bool | None) -> Execution:
        message: Message[object] = Message("email", "send_email", (), {}, {}, name)
        key = JobKey("email", "send_email", name)
        execution = Execution(message, key, f"here:{name}")
        execution.begin_under(Lease(key, execution.owner, 1, 1, breaker_open=breaker_open))
        return execution

    def guard(self, name: str = "a", *, breaker_open: bool | None) -> CircuitOpen | None:
        return take(self.breakers.guard(self.delivery(name, breaker_open=breaker_open), BREAKER, LIMIT), perform)

    def fail(self, name: str) -> timedelta | None:
        """Let a job fail that was claimed while the breaker was closed."""
        execution = self.delivery(name, breaker_open=False)
        return take(self.breakers.learn(execution, BREAKER, TransientError("down")), perform)

    def open_elsewhere(self, *, pause: float = 10) -> None:
        self.switches.trip(NAME, "elsewhere", pause=seconds(pause), longest=minutes(5))


@pytest.fixture
def office() -> Office:
    return Office()


def test_a_lease_that_says_closed_asks_nothing_more(office: Office) -> None:
    assert office.guard(breaker_open=False) is None
    assert office.switches.asked == 0


@pytest.mark.parametrize("said", [True, None])
def test_a_lease_that_says_anything_else_asks(office: Office, said: bool | None) -> None:
    assert office.guard(breaker_open=said) is None, "it was closed meanwhile"
    assert office.switches.asked == 1
    office.open_elsewhere()
    assert isinstance(office.guard(breaker_open=said), CircuitOpen)


def test_a_claim_from_before_this_process_has_opened_the_breaker_asks(office: Office) -> None:
    office.fail("a")
    assert office.fail("b") is not None
    assert isinstance(office.guard("c", breaker_open=False), CircuitOpen)


def test_once_the_breaker_was_seen_closed_leases_are_believed_again(office: Office) -> None:
    office.open_elsewhere()
    office.guard(breaker_open=True)
    office.switches.reset(NAME)
    assert [office.guard(breaker_open=False) for _ in range(2)] == [None, None]
    assert office.switches.asked == 2, "when it was open, and once more"


def test_a_job_that_probes_is_told_so_although_its_lease_knew_less(office: Office) -> None:
    office.open_elsewhere(pause=0)
    execution = office.delivery(breaker_open=True)
    assert take(office.breakers.guard(execution, BREAKER, LIMIT), perform) is None
    assert execution.probes


def test_what_was_claimed_just_before_the_breaker_opened_elsewhere_uses_up_no_attempt(office: Office) -> None:
    assert office.fail("a") is None, "it is closed"
    office.open_elsewhere()
    assert office.fail("a") is not None
    assert isinstance(office.guard("b", breaker_open=False), CircuitOpen), "nor do the others of its group"
