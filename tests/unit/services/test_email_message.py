import base64
import re
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import getaddresses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from email_service.adapters.message import AttachedFile, build_message, downgraded
from email_service.adapters.renderer import Rendered
from jobkit.contracts.email import Attachment, SendEmail

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
JOB = SendEmail(template="welcome", to=("ada@example.org",))


def made(job: SendEmail = JOB, *, subject: str = "s", sender: str = "no-reply@example.com", **more: object) -> bytes:
    files = more.pop("files", ())
    assert not more
    message = build_message(
        job,
        Rendered(subject, "<p>h</p>", "t"),
        sender=sender,
        now=NOW,
        message_id="<1@example.com>",
        files=files,  # type: ignore[arg-type]  # given by this file alone
    )
    return message.as_bytes()


def read(raw: bytes) -> EmailMessage:
    return message_from_bytes(raw, policy=policy.default)


def field(raw: bytes, name: str) -> str:
    """A header as it travels, unfolded by RFC 5322 alone."""
    found = re.search(rf"^{name}: (.*?)\r\n(?![ \t])".encode(), raw, re.DOTALL | re.MULTILINE)
    assert found is not None
    return re.sub(rb"\r\n(?=[ \t])", b"", found[1]).decode("ascii")


def strictly_decoded(value: str) -> str:
    """RFC 2047 by the letter: each word decodes by itself, and blanks between two words do not count."""
    word = re.compile(r"=\?utf-8\?b\?([A-Za-z0-9+/=]+)\?=")
    assert all(word.fullmatch(one) or "=?" not in one for one in value.split())
    joined = re.sub(r"(\?=)\s+(?==\?)", r"\1", value)
    return word.sub(lambda found: base64.b64decode(found[1]).decode("utf-8", "strict"), joined)


# The subject ------------------------------------------------------------------------------------------------------

SUBJECTS = [
    "Ihre Bestellung Nr. 2026-11-26 für Herrn Müller über 3 Stück Grüne Äpfel wurde versandt und trifft übermorgen ein",
    "[Shop-1477] Nouvelle commande de la boutique de Besançon - feu arrière connecté et accessoire (#1031)",
    "Rechnung  mit  zwei  Leerzeichen für Übersicht   drei",
    "Ваш заказ №77 на сумму 1 200 ₽ отправлен, ожидайте доставку завтра с 10:00 до 18:00 по адресу Лесная 5",  # noqa: RUF001  Russian
    "👩‍👩‍👧‍👦 " * 30 + "x",
    "A plain subject that is longer than the seventy-eight characters which one line should have at most",
    "Two  blanks and far more than seventy-eight characters in plain letters, which no fold may take away",
    "https://example.org/" + "a" * 200,
    "a" * 2000,
]


@pytest.mark.parametrize("subject", SUBJECTS)
def test_three_readers_see_the_same_subject_in_lines_that_every_server_takes(subject: str) -> None:
    raw = made(subject=subject)
    value = field(raw, "Subject")
    assert read(raw)["Subject"] == subject
    assert str(make_header(decode_header(value))) == subject
    assert strictly_decoded(value) == subject
    head = raw.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert max(map(len, head)) <= 78


@given(st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1, max_size=300))
@settings(max_examples=150, deadline=None)
@example("für " * 60)
@example("x" * 70 + " é")
def test_any_subject_arrives_as_it_was(subject: str) -> None:
    subject = subject.strip()
    if not subject or "=?" in subject:
        return
    raw = made(subject=subject)
    assert str(make_header(decode_header(field(raw, "Subject")))) == subject
    assert strictly_decoded(field(raw, "Subject")) == subject


# Mailboxes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Acme Support",
        "Müller, Söhne & Co.",
        'Ada "Countess" Lovelace',
        "Acme, Inc.",
        "back\\slash",
        "サポートセンター" * 8,
        "=?utf-8?q?eve?=",
        "Doctor Ada Lovelace of the Analytical Engine Company in Marylebone, with a name that takes two lines",
        "a@b.example",
        "O'Hara (Sales)",
    ],
)
def test_a_display_name_arrives_as_it_was(name: str) -> None:
    box = f"{name} <support@example.com>"
    raw = made(JOB.model_copy(update={"to": (box, "bob@example.org"), "cc": (box,), "reply_to": box}), sender=box)
    seen = read(raw)
    for header in ("From", "To", "Cc", "Reply-To"):
        # Not by policy.default, which puts blanks between the encoded words of a name.
        shown, address = getaddresses([field(raw, header)])[0]
        assert (str(make_header(decode_header(shown))), address) == (name, "support@example.com")
        assert strictly_decoded(field(raw, header)).startswith(('"', name))
    assert [one.addr_spec for one in seen["To"].addresses] == ["support@example.com", "bob@example.org"]


def test_a_name_that_is_quoted_already_is_quoted_once() -> None:
    raw = made(JOB.model_copy(update={"to": ('"Acme, Inc." <a@example.org>',)}))
    assert field(raw, "To") == '"Acme, Inc." <a@example.org>'


def test_a_domain_travels_in_ascii_in_every_header() -> None:
    job = SendEmail(
        template="welcome",
        to=("ada@bücher.example",),
        cc=("Bob <bob@例え.jp>",),
        reply_to="hilfe@straße.example",
    )
    raw = made(job)
    assert raw.isascii()
    assert (field(raw, "To"), field(raw, "Cc"), field(raw, "Reply-To")) == (
        "ada@xn--bcher-kva.example",
        "Bob <bob@xn--r8jz45g.jp>",
        "hilfe@xn--strae-oqa.example",
    )


def test_hundred_long_recipients_make_short_lines() -> None:
    people = tuple(f"Person Number {number} <person{number}@{'sub.' * 10}example.org>" for number in range(50))
    raw = made(SendEmail(template="welcome", to=people, cc=people))
    assert [one.addr_spec for one in read(raw)["To"].addresses] == [
        f"person{number}@{'sub.' * 10}example.org" for number in range(50)
    ]
    assert max(map(len, raw.split(b"\r\n"))) <= 998


def test_nobody_reads_who_got_a_blind_copy() -> None:
    assert b"eve@" not in made(JOB.model_copy(update={"bcc": ("Eve <eve@example.org>",)}))


def test_a_server_without_smtputf8_gets_headers_without_the_addresses_that_it_cannot_take() -> None:
    job = SendEmail(
        template="welcome",
        to=("jörg@example.org", "Grüße, Ada <ada@example.org>"),
        cc=("用户@example.org",),
        reply_to="hilfe@example.org",
    )
    message = build_message(
        job, Rendered("ü", "<p>ü</p>", "ü"), sender="a@example.com", now=NOW, message_id="<1@example.com>"
    )
    assert "jörg@example.org".encode() in message.as_bytes()
    raw = downgraded(message).as_bytes()
    assert raw.isascii()
    seen = read(raw)
    assert [(one.display_name, one.addr_spec) for one in seen["To"].addresses] == [("Grüße, Ada", "ada@example.org")]
    assert seen["Cc"] is None
    assert seen["Reply-To"] == "hilfe@example.org"
    assert seen["Subject"] == "ü"


def test_without_any_address_left_the_headers_say_so() -> None:
    message = build_message(
        JOB.model_copy(update={"to": ("jörg@example.org",)}),
        Rendered("s", "<p>h</p>", "t"),
        sender="a@example.com",
        now=NOW,
        message_id="<1@example.com>",
    )
    assert read(downgraded(message).as_bytes())["To"] == "undisclosed-recipients:;"


# Further headers --------------------------------------------------------------------------------------------------


def test_a_conversation_and_its_list_are_named() -> None:
    job = JOB.model_copy(
        update={
            "in_reply_to": "<2@example.org>",
            "references": ("<1@example.org>", "<2@example.org>"),
            "unsubscribe": "https://example.org/u?x=1",
            "headers": {"X-Campaign": "Grüße aus Köln", "X-Tenant": "7"},
        }
    )
    raw = made(job)
    assert field(raw, "In-Reply-To") == "<2@example.org>"
    assert field(raw, "References") == "<1@example.org> <2@example.org>"
    assert field(raw, "List-Unsubscribe") == "<https://example.org/u?x=1>"
    assert field(raw, "List-Unsubscribe-Post") == "List-Unsubscribe=One-Click"
    assert read(raw)["X-Campaign"] == "Grüße aus Köln"
    assert field(raw, "X-Tenant") == "7"


# Attachments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["report.pdf", "Übersicht März.pdf", "請求書.pdf", 'a "quoted" name.pdf', "x" * 150 + "ü.pdf"]
)
def test_an_attachment_keeps_its_bytes_and_its_name(name: str) -> None:
    data = bytes(range(256)) * 20
    file = AttachedFile(Attachment(key="in/1", name=name), data)
    raw = made(files=(file,))
    assert raw.isascii()
    seen = read(raw)
    assert seen.get_content_type() == "multipart/mixed"
    [part] = seen.iter_attachments()
    assert isinstance(part, EmailMessage)
    assert part.get_filename() == name
    assert message_from_bytes(raw).get_payload()[1].get_filename() is not None  # type: ignore[index,union-attr]  # a list
    assert (part.get_content_type(), part.get_content()) == ("application/pdf", data)
    body = seen.get_body(("plain",))
    assert body is not None
    assert body.get_content() == "t\r\n"


def test_an_inline_picture_stands_beside_the_html_that_shows_it() -> None:
    logo = AttachedFile(Attachment(key="logo.png", inline="logo"), b"\x89PNG")
    table = AttachedFile(Attachment(key="t/table.csv"), b"a,b\n")
    other = AttachedFile(Attachment(key="t/unknown", content_type="application/x-own"), b"x")
    seen = read(made(files=(logo, table, other)))
    html = seen.get_body(("related", "html"))
    assert html is not None
    assert html.get_content_type() == "multipart/related"
    picture = list(html.iter_parts())[1]
    assert (picture["Content-ID"], picture.get_content_type()) == ("<logo>", "image/png")
    names = [(part.get_filename(), part.get_content_type()) for part in seen.iter_attachments()]
    assert names == [("table.csv", "text/csv"), ("unknown", "application/x-own")]
