"""What the inbox promises through every client; each of them runs the whole suite."""

from copy import copy
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bank import POSTGRESQL_KINDS, SQLITE_KINDS, Bank, postgresql_bank, sqlite_bank

from jobkit.errors import NotOneTransaction, TimeLimitExceeded
from jobkit.inbox import Inbox, Outcome

INBOX = Inbox()


class Stopped(BaseException): ...


@pytest.fixture(params=[*SQLITE_KINDS, *POSTGRESQL_KINDS])
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Bank:
    if request.param in SQLITE_KINDS:
        built = sqlite_bank(request.param, tmp_path / "bank.db")
    else:
        built = postgresql_bank(request.param, request.getfixturevalue("postgres_schema"))
    built.open_account()
    with built.begin() as transaction:
        INBOX.create(transaction)
    return built


def credit(bank: Bank, key: str = "credit/1") -> Outcome[dict[str, int]]:
    with bank.begin() as transaction:
        return INBOX.once(transaction, key, lambda: bank.add(transaction, 10))


def test_an_effect_happens_once_and_its_result_is_kept(bank: Bank) -> None:
    assert credit(bank) == Outcome({"added": 10}, repeated=False)
    assert credit(bank) == Outcome({"added": 10}, repeated=True)
    assert bank.balance() == 10


def test_another_key_is_another_effect(bank: Bank) -> None:
    credit(bank, "credit/1")
    assert not credit(bank, "credit/2").repeated
    assert bank.balance() == 20


def test_an_effect_that_fails_leaves_no_mark_and_happens_in_the_next_run(bank: Bank) -> None:
    with pytest.raises(Stopped), bank.begin() as transaction:
        INBOX.once(transaction, "credit/1", lambda: fail_after(bank, transaction))
    assert bank.balance() == 0
    assert not credit(bank).repeated
    assert bank.balance() == 10


def test_what_fails_after_the_effect_takes_mark_and_effect_back(bank: Bank) -> None:
    def run() -> None:
        with bank.begin() as transaction:
            INBOX.once(transaction, "credit/1", lambda: bank.add(transaction, 10))
            raise Stopped

    with pytest.raises(Stopped):
        run()
    assert bank.balance() == 0
    assert not credit(bank).repeated


def test_a_failed_effect_goes_with_its_mark_even_if_the_caller_goes_on_and_commits(bank: Bank) -> None:
    class Refused(Exception): ...

    def effect(transaction: object) -> None:
        bank.add(transaction, 10)
        raise Refused

    with bank.begin() as transaction:
        with pytest.raises(Refused):
            INBOX.once(transaction, "credit/1", lambda: effect(transaction))
        bank.add(transaction, 1)
    assert bank.balance() == 1
    assert not credit(bank).repeated
    assert bank.balance() == 11


def test_an_interrupt_takes_the_effect_back_even_if_the_caller_goes_on_and_commits(bank: Bank) -> None:
    def effect(transaction: object) -> None:
        bank.add(transaction, 10)
        raise TimeLimitExceeded("too late")

    with bank.begin() as transaction, pytest.raises(TimeLimitExceeded):
        INBOX.once(transaction, "credit/1", lambda: effect(transaction))
    assert bank.balance() == 0
    assert not credit(bank).repeated


def test_a_transaction_that_has_read_and_written_before_is_no_hindrance(bank: Bank) -> None:
    with bank.begin() as transaction:
        bank.execute(transaction, "SELECT balance FROM account").fetchone()
        bank.add(transaction, 1)
        INBOX.once(transaction, "credit/1", lambda: bank.add(transaction, 10))
    with bank.begin() as transaction:
        bank.execute(transaction, "SELECT balance FROM account").fetchone()
        assert INBOX.once(transaction, "credit/1", lambda: bank.add(transaction, 10)).repeated
    assert bank.balance() == 11


def test_several_steps_of_a_job_may_share_a_transaction(bank: Bank) -> None:
    def both(transaction: object) -> dict[str, object]:
        fee = INBOX.once(transaction, "credit/1/fee", lambda: bank.add(transaction, -1))
        return {"fee": fee.result, **bank.add(transaction, 10)}

    with bank.begin() as transaction:
        INBOX.once(transaction, "credit/1", lambda: both(transaction))
    with bank.begin() as transaction:
        again = INBOX.once(transaction, "credit/1", lambda: both(transaction))
    assert again == Outcome({"fee": {"added": -1}, "added": 10}, repeated=True)
    assert bank.balance() == 9


def test_the_mark_can_be_looked_up(bank: Bank) -> None:
    with bank.begin() as transaction:
        assert INBOX.find(transaction, "credit/1") is None
    credit(bank)
    with bank.begin() as transaction:
        assert INBOX.find(transaction, "credit/1") == Outcome({"added": 10}, repeated=True)


def test_any_json_is_kept_as_it_was(bank: Bank) -> None:
    for number, result in enumerate([None, True, 0, 1.5, "ü\x00\ud800%s?", [1, {"a": None}]]):
        for repeated in (False, True):
            with bank.begin() as transaction:
                kept = INBOX.once(transaction, f"k{number}", partial(copy, result))
            assert kept == Outcome(result, repeated)


def test_an_effect_that_commits_by_itself_is_refused_each_time(bank: Bank) -> None:
    def effect(transaction: object) -> None:
        bank.add(transaction, 10)
        end_transaction(bank, transaction)

    for _ in range(2):
        with pytest.raises(NotOneTransaction), bank.begin() as transaction:
            INBOX.once(transaction, "k", lambda: effect(transaction))
    assert bank.balance() == 10


def test_marks_are_forgotten_by_age(bank: Bank) -> None:
    credit(bank, "old/1")
    credit(bank, "old/2")
    with bank.begin() as transaction:
        bank.execute(transaction, "UPDATE jobkit_inbox SET done_at = '2020-01-01T00:00:00.000Z' WHERE key LIKE 'old%'")
    credit(bank, "new")
    with bank.begin() as transaction:
        assert INBOX.forget(transaction, older_than=timedelta(days=30)) == 2
        assert INBOX.forget(transaction, older_than=timedelta(days=30)) == 0
    assert credit(bank, "new").repeated
    assert not credit(bank, "old/1").repeated


def test_the_age_is_counted_from_now(bank: Bank) -> None:
    credit(bank)
    with bank.begin() as transaction:
        assert INBOX.forget(transaction, older_than=timedelta(minutes=1)) == 0
    with bank.begin() as transaction:
        assert INBOX.forget(transaction, older_than=timedelta(microseconds=1)) == 1


def test_making_the_table_again_keeps_what_is_in_it(bank: Bank) -> None:
    credit(bank)
    with bank.begin() as transaction:
        INBOX.create(transaction)
    assert credit(bank).repeated


def test_a_table_of_another_name_has_marks_of_its_own(bank: Bank) -> None:
    credit(bank)
    other = Inbox("order")  # a word of SQL's
    with bank.begin() as transaction:
        other.create(transaction)
    with bank.begin() as transaction:
        assert not other.once(transaction, "credit/1", lambda: None).repeated


def fail_after(bank: Bank, transaction: object) -> None:
    bank.add(transaction, 10)
    raise Stopped


def end_transaction(bank: Bank, transaction: Any) -> None:
    """As careless code does, whatever the client thinks of it."""
    if bank.kind == "psycopg transaction":
        transaction.execute("COMMIT")
    elif bank.kind.startswith("sqlalchemy"):
        connection = transaction.connection() if "session" in bank.kind else transaction
        connection.connection.driver_connection.commit()
    else:
        getattr(transaction, "connection", transaction).commit()
