import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from jobkit.contracts.email import Address, SendEmail

ADDRESS = TypeAdapter(Address)
JOB = {"template": "welcome", "to": ["ada@example.com"], "variables": {"name": "Ada"}}


@pytest.mark.parametrize(
    "address",
    ["ada@example.com", "ada+tag=x@mail.example.co", "o'hara.b-c_d@example.org", "jörg@exämple.org", "用户@例子.广告"],
)
def test_ordinary_addresses_are_taken(address: str) -> None:
    assert ADDRESS.validate_python(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "ada@example",
        "ada@example.com\n",
        "ada@example.com\r\nBcc: eve@example.org",
        "ada@example.com,eve@example.org",
        "Ada <ada@example.com>",
        "<ada@example.com>",
        '"ada eve"@example.com',
        "ada@[127.0.0.1]",
        "ada..b@example.com",
        ".ada@example.com",
        "ada@-example.com",
        "ada@example..com",
        "ada%example.org@example.com",
        "=?utf-8?q?eve?=@example.com",
        "ada\u2028@example.com",
        "ada\u202e@example.com",
        "ada\x00@example.com",
        "ü" * 33 + "@example.com",  # 66 octets: the limit counts what travels
        5,
    ],
)
def test_anything_but_one_plain_address_is_refused_in_one_sentence(address: object) -> None:
    with pytest.raises(ValidationError) as refused:
        ADDRESS.validate_python(address)
    assert [e["msg"].partition(",")[0] for e in refused.value.errors()] == [
        "must be one plain address such as ada@example.com"
    ]


@given(st.text(min_size=1, max_size=4), st.integers(min_value=0, max_value=15))
@settings(max_examples=200, deadline=None)
def test_no_address_holds_a_character_that_ends_a_header_or_begins_another_address(inserted: str, at: int) -> None:
    candidate = "ada@example.com"[:at] + inserted + "ada@example.com"[at:]
    try:
        address = ADDRESS.validate_python(candidate)
    except ValidationError:
        return
    assert len(address.splitlines()) == 1
    assert not re.search(r'[\s,;:<>()"\\\x00-\x20\x7f-\xa0]', address)


def test_the_published_pattern_is_one_that_other_languages_can_compile() -> None:
    pattern = SendEmail.model_json_schema()["properties"]["to"]["items"]["pattern"]
    assert re.search(pattern, "ada@example.com")
    assert not re.search(pattern, "Ada <ada@example.com>")


@pytest.mark.parametrize(
    "change",
    [
        {"to": []},
        {"to": ["ada@example.com"] * 51},
        {"template": "../secret"},
        {"template": "Welcome"},
        {"reply_to": "ada@example.com\nBcc: eve@example.org"},
        {"cc": ["a@example.com, b@example.com"]},
        {"subject": "unknown field"},
        {"remainder": {"job_id": "1", "recipients": ["eve@example.org"]}},
    ],
)
def test_a_job_that_breaks_the_contract_is_refused_at_the_producer(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SendEmail.model_validate(JOB | change)


def test_a_job_survives_the_wire() -> None:
    job = SendEmail.model_validate(JOB | {"cc": ["eve@example.org"], "variables": {"rows": [[1, None, "ü"]]}})
    assert SendEmail.model_validate_json(job.model_dump_json()) == job
    assert (SendEmail.actor, SendEmail.queue) == ("send_email", "email")
