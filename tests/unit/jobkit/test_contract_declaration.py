"""What a contract may declare; what cannot be sent is refused where it is written."""

import dataclasses
import json
import types
import warnings
from contextlib import nullcontext
from datetime import date
from typing import Annotated, Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr, create_model
from typing_extensions import TypedDict  # Pydantic's choice below Python 3.12

from jobkit.contracts import Job
from jobkit.producer import message_for
from jobkit.service import Service

T = TypeVar("T")


class Unnamed(Job):
    pass


class Small(Job, queue="case"):
    number: int = 1
    text: str = ""


class Node(BaseModel):
    secret: list[SecretStr | None]


class Hidden(BaseModel):
    token: str = Field(default="", exclude=True)


class Typed(TypedDict):
    key: SecretBytes


@dataclasses.dataclass
class Credentials:
    password: SecretStr


class Holder(BaseModel, Generic[T]):
    value: T


@pytest.mark.parametrize(
    "annotation",
    [
        SecretStr,
        SecretBytes,
        Secret[date],
        SecretStr | None,
        dict[str, Node],
        Annotated[tuple[Typed, ...], Field(max_length=3)],
        Credentials,
        Holder[SecretStr],
        Holder[list[Node]],
    ],
    ids=str,
)
def test_a_secret_is_refused_where_the_contract_is_written(annotation: Any) -> None:
    with pytest.raises(TypeError, match=r"Login\.password holds a Secret"):
        create_model("Login", __base__=Unnamed, __cls_kwargs__={"queue": "case"}, password=(annotation, ...))


@pytest.mark.parametrize(
    "field",
    [(str, Field(default="", exclude=True)), (Hidden, Hidden()), (list[Hidden], [])],
    ids=["own", "inner", "list"],
)
def test_an_excluded_field_is_refused_where_the_contract_is_written(field: Any) -> None:
    with pytest.raises(TypeError, match=r"Login\.token.* exclude"):
        create_model("Login", __base__=Unnamed, __cls_kwargs__={"queue": "case"}, token=field)


def test_a_secret_in_a_type_that_is_defined_later_is_refused_at_the_first_send() -> None:
    class Early(Job, queue="case"):
        later: "Later | None" = None

    class Later(BaseModel):
        secret: SecretStr

    Early.model_rebuild(_types_namespace={"Later": Later})
    with pytest.raises(TypeError, match=r"Early\.later holds a SecretStr"):
        message_for(Early())


def declare(fields: dict[str, Any], *bases: type, **options: Any) -> type[Job]:
    def body(namespace: dict[str, Any]) -> None:
        namespace["__annotations__"] = fields
        namespace["__module__"] = __name__

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # Pydantic warns of some of these names, too
        return types.new_class("Paint", (*bases, Job), {"queue": "case", **options}, body)


class Mixin(BaseModel):
    lanes: int


@pytest.mark.parametrize(
    "name", ["queue", "actor", "lanes", "default_lane", "version", "model_dump", "model_fields", "model_validate"]
)
def test_a_field_cannot_take_a_name_that_the_library_needs(name: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}' belongs to the contract"):
        declare({name: int})


def test_names_are_taken_for_mixins_methods_and_aliases_too() -> None:
    with pytest.raises(TypeError, match="'lanes' belongs"):
        types.new_class("Paint", (Job, Mixin), {"queue": "case"})
    with pytest.raises(TypeError, match="'actor' belongs"):
        types.new_class("Paint", (Job,), {"queue": "case"}, lambda body: body.update(actor=property(str)))
    with pytest.raises(TypeError, match="'self' cannot be sent"):
        create_model("Paint", __base__=Unnamed, __cls_kwargs__={"queue": "case"}, n=(int, Field(alias="self")))


@pytest.mark.parametrize("name", ["json", "dict", "copy", "schema", "validate", "construct"])
def test_names_that_only_pydantic_has_used_before_are_free(name: str) -> None:
    job = declare({name: int})(**{name: 3})
    assert json.loads(message_for(job).encode())["kwargs"] == {name: 3}


def derive(*, queue: str | None = None, **fields: Any) -> type[Job]:
    options = {} if queue is None else {"queue": queue}
    return create_model("Refund", __base__=Small, __cls_kwargs__=options, **fields)


def test_a_contract_that_derives_from_another_needs_a_queue_of_its_own() -> None:
    with pytest.raises(
        TypeError, match=r"Refund derives from the contract Small .* class Refund\(Small, queue='case'\)"
    ):
        derive()
    refund = derive(queue="case")
    assert (refund.actor, refund.queue, refund.lanes) == ("refund", "case", ("normal",))


def test_a_generic_contract_cannot_be_sent_as_its_base_and_a_generic_base_can_be_filled_in() -> None:
    class Envelope(Job, Generic[T], queue="case"):
        content: T

    with pytest.raises(TypeError, match="derives from the contract Envelope"):
        Envelope[int]

    class Base(Job, Generic[T]):
        content: T

    class Numbered(Base[int], queue="case"):
        pass

    assert message_for(Numbered(content=7)).kwargs == {"content": 7}


LANES: list[tuple[dict[str, Any], str]] = [
    ({"lanes": ("premium", "free")}, "default_lane='normal' is not among"),
    ({"lanes": ("premium", "free"), "default_lane": "standard"}, "default_lane='standard' is not among"),
    ({"lanes": ("premium", "premium"), "default_lane": "premium"}, "names a lane twice"),
    ({"lanes": "normal"}, "must be a tuple"),
    ({"lanes": ()}, "must be a tuple"),
    ({"lanes": ("normal", "a.b")}, "must be a tuple"),
    ({"lanes": ("normal", "dlq")}, "dead-letter queue"),
    ({"queue": "case.dlq"}, "dead-letter queue"),
    ({"queue": None, "lanes": ("a", "normal")}, "without a queue"),
    ({"queue": None, "version": 2}, "without a queue"),
]


@pytest.mark.parametrize(("options", "reason"), LANES, ids=lambda value: str(value)[:40])
def test_lanes_that_cannot_be_used_are_refused_where_they_are_written(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(TypeError, match=reason):
        types.new_class("Laned", (Job,), {"queue": "case", **options})


def test_a_contract_names_its_lanes_and_its_default_lane() -> None:
    class Render(Job, queue="case", lanes=("premium", "standard", "free"), default_lane="standard"):
        page: int = 1

    assert message_for(Render()).queue_name == "case"
    assert message_for(Render(), lane="standard").queue_name == "case"
    assert message_for(Render(), lane="premium").queue_name == "case.premium"
    with pytest.raises(ValueError, match="no lane 'normal', only premium, standard, free"):
        message_for(Render(), lane="normal")


def test_a_single_lane_that_is_the_default_needs_no_list() -> None:
    class Only(Job, queue="case", default_lane="only"):
        pass

    assert (Only.lanes, message_for(Only()).queue_name) == (("only",), "case")


@pytest.mark.parametrize("key", ["", " ", "\t\n", "\u200b", "\u3000 ", "\0"])
def test_a_blank_key_is_refused_because_all_jobs_would_be_one(key: str) -> None:
    with pytest.raises(ValueError, match=r"key=.* is blank"):
        message_for(Small(), key=key)


@pytest.mark.parametrize(
    ("arguments", "error", "reason"),
    [
        ({"key": "caf\udce9"}, ValueError, "cannot be encoded in UTF-8"),
        ({"key": 17}, TypeError, "must be text"),
        ({"job_id": "  "}, ValueError, "not blank"),
    ],
    ids=["surrogate", "number", "blank id"],
)
def test_a_key_or_id_that_cannot_be_used_is_refused_in_words(
    arguments: dict[str, Any], error: type[Exception], reason: str
) -> None:
    with pytest.raises(error, match=reason):
        message_for(Small(), **arguments)


@pytest.mark.parametrize("queue", ["due", "due.email", "jobkit", "jobkit.delay.a"])
def test_no_service_takes_a_name_of_jobkits_own_queues(queue: str) -> None:
    with pytest.raises(TypeError, match=rf"queue='{queue}': no service may be named '{queue.partition('.')[0]}'"):
        type("Taken", (Job,), {}, queue=queue)
    with pytest.raises(TypeError, match="cannot be named"):
        Service(queue.partition(".")[0], lifespan=lambda _settings: nullcontext())


def test_a_service_may_have_a_name_that_begins_like_those() -> None:
    class Free(Job, queue="dues.due"):
        pass

    assert Free.queue == "dues.due"
