"""What is said of a payload that breaks its contract fits into a log line and a header, whatever was sent."""

import pytest
from dramatiq import Message

from jobkit.contracts import Job
from jobkit.contracts.inference import PredictBatch
from jobkit.errors import BadPayload
from jobkit.execution import Execution
from jobkit.runner import parse
from jobkit.store.base import JobKey


class Order(Job, queue="orders"):
    """Something with a field."""

    amount: int


def complaint(contract: type[Job], payload: dict[str, object]) -> str:
    message: Message[None] = Message("orders", contract.actor, (), payload, {}, "id-1", 0)
    with pytest.raises(BadPayload) as refusal:
        parse(contract, Execution(message, JobKey.of(contract.queue, contract.actor, "id-1")))
    return str(refusal.value)


def test_a_few_mistakes_are_all_named() -> None:
    text = complaint(Order, {"amount": "x", "amuont": 1})
    assert "amount: " in text
    assert "amuont: " in text


def test_a_field_s_name_may_be_as_long_as_the_message() -> None:
    text = complaint(Order, {"amount": 1, "x" * 1_000_000: 1})
    assert text.startswith("order: xxx")
    assert len(text) < 1_000


def test_mistakes_without_end_are_counted_and_not_listed() -> None:
    text = complaint(Order, {"amount": 1, **{f"field-{n}": n for n in range(5_000)}})
    assert text == "order: 5,000 things are wrong with the payload, too many to list"


def test_of_numbers_that_are_none_the_first_is_named() -> None:
    text = complaint(PredictBatch, {"model": "digits", "inputs": [["x"] * 4_000] * 100})
    assert text.count("inputs.0.0") == 1
    assert "inputs.0.1" not in text
