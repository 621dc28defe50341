"""What is said of a payload that breaks its contract fits into a log line and a header, whatever was sent."""

import pytest
from dramatiq import Message
from pydantic import BaseModel, ConfigDict, Field

from jobkit.contracts import Job
from jobkit.contracts.inference import PredictBatch
from jobkit.errors import BadPayload
from jobkit.execution import Execution
from jobkit.payload import parse, read
from jobkit.store.base import JobKey


class Line(BaseModel):
    """A part that refuses what it does not have."""

    model_config = ConfigDict(extra="forbid")

    price: str


class Notes(BaseModel):
    """A part that takes everything."""

    model_config = ConfigDict(extra="allow")


class Order(Job, queue="orders"):
    """Something with a field, and with others in it."""

    amount: int
    lines: list[Line] = Field(default_factory=list)
    prices: dict[str, int] = Field(default_factory=dict)
    notes: Notes = Notes()
    either: Line | int = 0


def complaint(contract: type[Job], payload: dict[str, object]) -> str:
    message: Message[None] = Message("orders", contract.actor, (), payload, {}, "id-1", 0)
    with pytest.raises(BadPayload) as refusal:
        parse(contract, Execution(message, JobKey.of(contract.queue, contract.actor, "id-1"), "owner"))
    return str(refusal.value)


def test_a_few_mistakes_are_all_named() -> None:
    text = complaint(Order, {"amount": "x", "lines": [{"price": 1}]})
    assert "amount: " in text
    assert "lines.0.price: " in text


def test_a_field_s_name_may_be_as_long_as_the_message() -> None:
    text = complaint(Order, {"amount": 1, "prices": {"x" * 1_000_000: "free"}})
    assert text.startswith("order: prices.xxx")
    assert len(text) < 1_000


def test_unknown_fields_are_ignored_at_any_depth_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    payload = {"amount": 1, "colour": "red", "lines": [{"price": "a", "tax": 2}, {"price": "b", "tax": 3}]}
    for _ in range(2):
        assert read(Order, payload) == Order(amount=1, lines=[Line(price="a"), Line(price="b")])
    assert sorted(str(record.args) for record in caplog.records) == ["('order', 'colour')", "('order', 'lines.tax')"]
    assert payload["colour"] == "red"


def test_an_open_part_of_a_contract_keeps_what_it_holds() -> None:
    assert read(Order, {"amount": 1, "unknown": 1, "notes": {"by": "ada"}}).notes == Notes.model_validate({"by": "ada"})


def test_an_unknown_field_in_an_alternative_is_ignored() -> None:
    assert read(Order, {"amount": 1, "either": {"price": "a", "tax": 2}}).either == Line(price="a")


def test_mistakes_without_end_are_counted_and_not_listed() -> None:
    text = complaint(Order, {"amount": 1, **{f"field-{n}": n for n in range(5_000)}})
    assert text == "order: 5,000 things are wrong with the payload, too many to list"


def test_of_numbers_that_are_none_the_first_is_named() -> None:
    text = complaint(PredictBatch, {"model": "digits", "inputs": [["x"] * 4_000] * 100})
    assert text.count("inputs.0.0") == 1
    assert "inputs.0.1" not in text
