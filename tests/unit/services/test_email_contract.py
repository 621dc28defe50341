import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from jobkit.contracts.email import Address, Mailbox, SendEmail, address_of

ADDRESS = TypeAdapter(Address)
MAILBOX = TypeAdapter(Mailbox)
JOB = {"template": "welcome", "to": ["ada@example.com"], "variables": {"name": "Ada"}}


@pytest.mark.parametrize(
    "address",
    [
        "ada@example.com",
        "ada+tag=x@mail.example.co",
        "o'hara.b-c_d@example.org",
        "jörg@exämple.org",
        "用户@例子.广告",
        '"ada..b."@carrier.example',  # as some Japanese carriers gave them
        '".ada"@carrier.example',
    ],
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
        '"ada\\"eve"@example.com',
        '"ada@eve"@example.com',
        '""@example.com',
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
        "ada@example\u3002com.org",
        "ada\uff20eve@example.com",
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


#: What is invisible of the Basic Multilingual Plane, or turns the direction of writing: Default_Ignorable_Code_Point of
#: Unicode, format controls, blanks that look like letters, and spaces.
INVISIBLE = [
    *(0x00A0, 0x00AD, 0x034F, 0x061C, 0x06DD, 0x070F, 0x08E2, 0x115F, 0x1160, 0x1680, 0x17B4, 0x17B5, 0x2800, 0x3000),
    *(0x3164, 0xFEFF, 0xFFA0),
    *range(0x0600, 0x0606),
    *range(0x180B, 0x1810),
    *range(0x2000, 0x2070),
    *range(0xFE00, 0xFE10),
    *range(0xFFF0, 0xFFFC),
]


def test_no_invisible_mark_hides_in_an_address() -> None:
    taken = []
    for mark in map(chr, INVISIBLE):
        for address in (f"ada{mark}@example.com", f"ada@exam{mark}ple.com", f"{mark}ada@example.com"):
            with contextlib.suppress(ValidationError):
                taken.append(ascii(ADDRESS.validate_python(address)))
    assert taken == []


@pytest.mark.parametrize(
    ("mailbox", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        ("Acme Support <support@example.com>", "support@example.com"),
        ("Müller, Söhne & Co. <kontakt@müller.example>", "kontakt@müller.example"),
        ('Ada "Countess" Lovelace <ada@example.com>', "ada@example.com"),
        ("サポート 😀 <help@example.com>", "help@example.com"),
    ],
)
def test_a_mailbox_may_have_a_display_name(mailbox: str, address: str) -> None:
    assert address_of(MAILBOX.validate_python(mailbox)) == address


@pytest.mark.parametrize(
    "mailbox",
    [
        "Ada<ada@example.com>",
        " Ada <ada@example.com>",
        "<ada@example.com>",
        "Ada <ada@example.com>, eve@example.org",
        "Ada <eve@example.org> <ada@example.com>",
        "Ada\r\nBcc: eve@example.org <ada@example.com>",
        "Ada\u2028 <ada@example.com>",
        "\u202eadA <ada@example.com>",
        "A" * 129 + " <ada@example.com>",
        "Ada <" + "a" * 65 + "@example.com>",
        "Ada",
        5,
    ],
)
def test_a_mailbox_that_is_not_one_address_is_refused(mailbox: object) -> None:
    with pytest.raises(ValidationError, match="must be one address such as"):
        MAILBOX.validate_python(mailbox)


def test_the_published_pattern_is_one_that_other_languages_can_compile() -> None:
    pattern = SendEmail.model_json_schema()["properties"]["to"]["items"]["pattern"]
    assert re.search(pattern, "ada@example.com")
    assert re.search(pattern, "Ada <ada@example.com>")
    assert not re.search(pattern, "ada@example.com, eve@example.org")


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
        {"headers": {"Bcc": "eve@example.org"}},
        {"headers": {"X-Tenant": "a\r\nBcc: eve@example.org"}},
        {"unsubscribe": "http://example.org/u"},
        {"unsubscribe": "https://example.org/u>,<x"},
        {"in_reply_to": "<1@example.org>\r\nBcc: x"},
        {"in_reply_to": "1@example.org"},
        {"attachments": [{"key": "a", "name": "../a"}]},
        {"attachments": [{"key": "a", "content_type": "multipart/mixed"}]},
        {"attachments": [{"key": "a", "inline": "a>b"}]},
        {"language": "de_AT"},
        {"sender": "=?utf-8?q?x?="},
    ],
)
def test_a_job_that_breaks_the_contract_is_refused_at_the_producer(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        SendEmail.model_validate(JOB | change)


def test_a_remainder_of_an_earlier_version_still_runs() -> None:
    old = JOB | {"remainder": {"job_id": "1", "recipients": ["ada@example.com"]}}
    assert SendEmail.model_validate(old).remainder is not None


def test_a_remainder_names_addresses_without_their_display_names() -> None:
    job = JOB | {"to": ["Ada <ada@example.com>"], "bcc": ["Eve <eve@example.org>"]}
    rest = {"job_id": "1", "recipients": ["ada@example.com", "eve@example.org"], "message_id": "<1@example.com>"}
    assert SendEmail.model_validate(job | {"remainder": rest}).remainder is not None


def test_a_job_survives_the_wire() -> None:
    job = SendEmail.model_validate(JOB | {"cc": ["eve@example.org"], "variables": {"rows": [[1, None, "ü"]]}})
    assert SendEmail.model_validate_json(job.model_dump_json()) == job
    assert (SendEmail.actor, SendEmail.queue) == ("send_email", "email")
