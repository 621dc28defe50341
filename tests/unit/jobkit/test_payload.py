"""The job that arrives is the job that was sent, or the send raises and names the field."""

import dataclasses
import enum
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, TypeVar
from zoneinfo import ZoneInfo

import pika
import pytest
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Json,
    JsonValue,
    PlainSerializer,
    SecretStr,
    computed_field,
    create_model,
    model_validator,
)
from pydantic.alias_generators import to_camel

from jobkit.broker.envelope import decode
from jobkit.contracts import Job, PayloadChanged
from jobkit.execution import Execution
from jobkit.payload import parse
from jobkit.producer import Producer, message_for
from jobkit.store.base import JobKey

T = TypeVar("T")
BERLIN = ZoneInfo("Europe/Berlin")
REPEATED = datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)  # the hour that the zone has twice


def arrive(job: Job) -> Job:
    """What the worker makes of the message, byte by byte."""
    sent = message_for(job)
    message = decode(sent.encode(), pika.BasicProperties(), sent.queue_name)
    return parse(
        type(job), Execution(message, JobKey.of(message.queue_name, message.actor_name, message.message_id), "owner")
    )


class Base(BaseModel):
    number: int = 1


class Derived(Base):
    more: int = 2


@dataclasses.dataclass
class Point:
    x: float
    at: datetime


@dataclasses.dataclass(eq=False)
class Identity:
    x: float


class Colour(enum.Enum):
    RED = "red"
    THREE = 3


class Everything(Job, queue="case"):
    anything: Any = None
    base: Base = Base()
    bases: list[Base] = Field(default_factory=list)
    number: float = 0.0
    numbers: dict[int, float] = Field(default_factory=dict)
    by_tuple: dict[tuple[int, int], str] = Field(default_factory=dict)
    by_anything: dict[Any, Any] = Field(default_factory=dict)
    at: datetime | None = None
    point: Point | None = None
    identity: Identity | None = None
    colour: Colour = Colour.RED
    decimal: Decimal = Decimal("1.00")
    several: set[float] = Field(default_factory=set)
    data: bytes = b""
    either: int | str | uuid.UUID | None = None
    row: tuple[int, ...] = ()
    parsed: Json[list[int]] = Field(default_factory=lambda: [1])
    tree: JsonValue = None
    duration: timedelta = timedelta()

    @computed_field  # type: ignore[prop-decorator]  # Pydantic documents it like this
    @property
    def double(self) -> float:
        return self.number * 2


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"number": float("inf")},
        {"numbers": {1: 0.1, -2: 1e300}},
        {"at": datetime(2026, 10, 25, 2, 30, 0, 17, UTC)},
        {"colour": Colour.THREE},
        {"decimal": Decimal("1E+40")},
        {"data": b"abc"},
        {"either": "1"},
        {"either": 1},
        {"row": (1, 2)},
        {"parsed": "[3, 4]"},
        {"tree": {"a": [1, 2.5, None, "é", {"b": True}]}},
        {"duration": timedelta(days=-300_000, microseconds=7)},
        {"anything": {"a": [1, None]}},
        {"bases": [Base(number=7)]},
    ],
    ids=str,
)
def test_what_can_travel_arrives_as_it_was_sent(fields: dict[str, Any]) -> None:
    job = Everything(**fields)
    assert arrive(job) == job


def test_not_a_number_arrives_and_is_not_taken_for_a_change() -> None:
    arrived = arrive(Everything(number=float("nan"), several={float("nan"), 1.0}, numbers={1: float("nan")}))
    assert isinstance(arrived, Everything)
    assert str(arrived.number) == "nan"


@pytest.mark.parametrize("fold", [0, 1])
def test_a_moment_in_the_hour_that_a_zone_repeats_arrives_as_that_moment(fold: int) -> None:
    sent = REPEATED.replace(fold=fold)
    arrived = arrive(Everything(at=sent, point=Point(1.0, sent)))
    assert isinstance(arrived, Everything)
    assert arrived.at is not None
    assert arrived.at.timestamp() == sent.timestamp()


def test_a_value_that_compares_by_identity_is_compared_by_its_fields() -> None:
    arrived = arrive(Everything(identity=Identity(0.5)))
    assert isinstance(arrived, Everything)
    assert arrived.identity is not None
    assert arrived.identity.x == 0.5


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"bases": [Base(), Derived()]}, "bases.1"),
        ({"base": Derived()}, "base"),
        ({"by_tuple": {(1, 2): "x"}}, "by_tuple"),
        ({"by_anything": {1: 2}}, "by_anything"),
        ({"anything": (1, 2)}, "anything"),
        ({"anything": {1, 2}}, "anything"),
        ({"anything": date(2026, 10, 1)}, "anything"),
        ({"anything": SecretStr("s3cret")}, "anything"),
        ({"anything": Base()}, "anything"),
        ({"anything": object()}, "anything"),
        ({"anything": b"\xff"}, "anything"),
        ({"data": b"\xff\x00"}, "data"),
        ({"either": uuid.UUID(int=1)}, "either"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, dict) else value,
)
def test_what_would_arrive_changed_is_refused_and_the_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(PayloadChanged, match=rf"\b{named}") as refusal:
        message_for(Everything(**fields))
    assert "s3cret" not in str(refusal.value)


SECOND_HALF_PAST_TWO = REPEATED.replace(fold=1, tzinfo=None)


class Level(enum.IntEnum):
    HIGH = 1


class Word(enum.StrEnum):
    RED = "red"


class Column(BaseModel):
    type: str = "integer"


class Tabular(Job, queue="case"):
    columns: list[Column] = Field(default_factory=lambda: [Column()])


def test_a_model_with_a_field_of_the_name_type_travels() -> None:
    assert arrive(Tabular()) == Tabular()


class Loose(Job, queue="case"):
    anything: Any = None
    several: set[Any] = Field(default_factory=set)
    either: Word | str = ""
    at: datetime | None = None
    hour: time | None = None
    point: Point | None = None
    text: str = ""
    number: int = 0
    word: Word = Word.RED


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"anything": Word.RED}, "anything"),
        ({"anything": Level.HIGH}, "anything"),
        ({"anything": {"a": [0, Level.HIGH]}}, r"anything\.a\.1"),
        ({"anything": {Word.RED: 1}}, r"anything\.red"),
        ({"several": {0, Level.HIGH}}, "several"),
        ({"either": Word.RED}, "either"),
        ({"at": SECOND_HALF_PAST_TWO}, "at"),
        ({"hour": time(2, 30, fold=1)}, "hour"),
        ({"point": Point(1.0, SECOND_HALF_PAST_TWO)}, r"point\.at"),
    ],
    ids=lambda value: str(next(iter(value.values()))) if isinstance(value, dict) else value,
)
def test_what_would_arrive_as_another_value_that_is_equal_to_it_is_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(PayloadChanged, match=rf"Loose\.{named} would arrive changed"):
        message_for(Loose(**fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"anything": ["red", 1, True, 1.0, None], "either": "red", "several": {1, "red"}},
        {"text": Word.RED, "number": Level.HIGH, "word": "red"},
        {"at": SECOND_HALF_PAST_TWO.replace(fold=0), "hour": time(2, 30)},
        {"at": datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=UTC)},
    ],
    ids=["any", "enums", "first half past two", "half past two in a zone"],
)
def test_what_the_contract_turns_into_plain_values_travels(fields: dict[str, Any]) -> None:
    assert arrive(Loose(**fields)) == Loose(**fields)


def test_a_number_of_too_many_digits_is_refused_when_its_message_is_written() -> None:
    with (
        Producer("amqp://guest:guest@127.0.0.1:1/", timeout=0.1) as producer,
        pytest.raises(PayloadChanged, match="everything: anything cannot be written as JSON"),
    ):
        producer.send(Everything(anything=10**5000))


@pytest.mark.parametrize(("levels", "refused"), [(98, False), (99, True), (150, True)])
def test_nesting_is_refused_at_the_sender_exactly_where_the_worker_refuses_it(levels: int, refused: bool) -> None:
    tree: JsonValue = 1
    for _ in range(levels):
        tree = [tree]
    job = Everything(tree=tree)
    if refused:
        with pytest.raises(PayloadChanged, match=r"Everything\.tree nests"):
            message_for(job)
    else:
        assert arrive(job) == job


def twice(value: int) -> int:
    return value * 100


def test_a_validator_that_is_not_idempotent_is_refused() -> None:
    class Charge(Job, queue="case"):
        cents: Annotated[int, AfterValidator(twice)]

    with pytest.raises(PayloadChanged, match=r"Charge\.cents would arrive changed"):
        message_for(Charge(cents=5))


def test_a_model_validator_that_counts_up_is_refused() -> None:
    class Counting(Job, queue="case"):
        count: int = 0

        @model_validator(mode="before")
        @classmethod
        def _count(cls, data: dict[str, int]) -> dict[str, int]:
            return {"count": data.get("count", 0) + 1}

    with pytest.raises(PayloadChanged, match=r"Counting\.count"):
        message_for(Counting())


def test_a_serializer_that_loses_something_is_refused() -> None:
    class Rounded(Job, queue="case"):
        price: Annotated[float, PlainSerializer(lambda value: round(value))]

    assert arrive(Rounded(price=2.0)) == Rounded(price=2.0)
    with pytest.raises(PayloadChanged, match=r"Rounded\.price"):
        message_for(Rounded(price=2.5))


def test_aliases_travel() -> None:
    class Forward(Job, queue="case"):
        sender: str = Field(alias="from")

    class Camel(Job, queue="case"):
        model_config = ConfigDict(alias_generator=to_camel)
        first_name: str

    for job in (Forward.model_validate({"from": "a@example.com"}), Camel.model_validate({"firstName": "Ada"})):
        assert arrive(job) == job


@pytest.mark.parametrize(
    "field", [Field(1, validation_alias="m"), Field(1, serialization_alias="m")], ids=["reading", "writing"]
)
def test_an_alias_for_one_direction_is_refused(field: Any) -> None:
    one_way = create_model("OneWay", __base__=Unnamed, __cls_kwargs__={"queue": "case"}, n=(int, field))
    with pytest.raises(PayloadChanged, match="OneWay"):
        message_for(one_way())


class Unnamed(Job):
    pass


NOT_A_NUMBER: dict[str, Any] = {"number": "many"}


class Small(Job, queue="case"):
    number: int = 1
    text: str = ""


@pytest.mark.parametrize(
    ("job", "named"),
    [
        (Small.model_construct(None, **NOT_A_NUMBER), "number"),
        (Small().model_copy(update={"number": 1.5}), "number"),
        (Small().model_copy(update={"tetx": "misspelt"}), "tetx"),
    ],
)
def test_a_job_that_was_made_past_validation_is_refused_at_the_sender(job: Job, named: str) -> None:
    with pytest.raises(PayloadChanged, match=named):
        message_for(job)


def test_a_private_attribute_that_is_lost_is_refused() -> None:
    class Private(Job, queue="case"):
        model_config = ConfigDict(frozen=False)
        _token: str = ""

    job = Private()
    message_for(job)
    job._token = "t"
    with pytest.raises(PayloadChanged, match="_token"):
        message_for(job)


def refusing() -> Callable[[int], int]:
    def validate(value: int) -> int:
        raise KeyError(value)

    return validate


def test_a_validator_that_fails_on_reading_back_is_a_refusal_like_any_other() -> None:
    class Odd(Job, queue="case"):
        number: Annotated[int, BeforeValidator(refusing())] = 1

    with pytest.raises(PayloadChanged, match="Odd cannot be read back"):
        message_for(Odd.model_construct(number=1))
