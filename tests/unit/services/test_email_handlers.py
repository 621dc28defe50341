import os
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from email_service.adapters.attachments import StoredAttachments, open_store
from email_service.adapters.mailer import AtDot
from email_service.adapters.renderer import Rendered, TemplateRenderer
from email_service.adapters.rules import Rules
from email_service.adapters.suppressions import SuppressionList
from email_service.errors import (
    AddressNotSupported,
    AttachmentUnusable,
    MailServerUnavailable,
    NotAllowed,
    StorageUnavailable,
    Suppressed,
    SuppressionsUnreadable,
    TemplateFailed,
)
from email_service.handlers import build_message, message_id, one_line, send_email
from jobkit.contracts.email import Attachment, EmailSent, Refusal, Remainder, SendEmail

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
SENDER = "no-reply@example.com"
RENDERER = TemplateRenderer.from_folder(None)
JOB = SendEmail(
    template="welcome",
    to=("ada@example.org", "bob@example.org"),
    cc=("cyn@example.org",),
    reply_to="help@example.com",
    variables={"name": "Ada Lovelace 💌", "url": "https://example.com/in"},
)


@dataclass
class Desk:
    """A ``Mailer`` that keeps what it is given, and refuses whom it is told to refuse."""

    refusals: dict[str, int] = field(default_factory=dict)
    sent: list[tuple[EmailMessage, tuple[str, ...]]] = field(default_factory=list)
    down: bool = False

    def send(
        self, message: EmailMessage, recipients: Sequence[str], *, at_dot: AtDot | None = None
    ) -> tuple[Refusal, ...]:
        if self.down:
            raise MailServerUnavailable("127.0.0.1:25 cannot be reached")
        self.sent.append((message, tuple(recipients)))
        return tuple(Refusal(address=a, code=self.refusals[a], reason="no") for a in recipients if a in self.refusals)


def run(
    job: SendEmail,
    desk: Desk,
    *,
    job_id: str = "job-1",
    follow_ups: list[SendEmail] | None = None,
    portions: list[SendEmail] | None = None,
    sent_at: datetime | None = None,
    rules: Rules | None = None,
    suppressed: Container[str] = (),
) -> EmailSent:
    return send_email(
        job,
        job_id,
        renderer=RENDERER,
        mailer=desk,
        sender=SENDER,
        now=NOW,
        follow_up=(follow_ups if follow_ups is not None else []).append,
        next_portion=portions.append if portions is not None else None,
        sent_at=sent_at,
        rules=rules,
        suppressed=suppressed,
    )


def received(message: EmailMessage) -> EmailMessage:
    """The message as a mail reader sees it: from its bytes."""
    return message_from_bytes(message.as_bytes(), policy=policy.default)


def test_the_reader_gets_text_and_html_with_every_header() -> None:
    desk = Desk()
    result = run(JOB, desk)
    message = received(desk.sent[0][0])
    assert {name: message[name] for name in ("From", "To", "Cc", "Reply-To", "Subject", "Auto-Submitted")} == {
        "From": SENDER,
        "To": "ada@example.org, bob@example.org",
        "Cc": "cyn@example.org",
        "Reply-To": "help@example.com",
        "Subject": "Welcome, Ada Lovelace 💌",
        "Auto-Submitted": "auto-generated",
    }
    assert parsedate_to_datetime(message["Date"]) == NOW
    assert message["Message-ID"] == result.message_id
    assert message.get_content_type() == "multipart/alternative"
    text, html = message.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert text.get_content().splitlines()[0] == "Welcome, Ada Lovelace 💌"
    assert 'style="margin: 0 0 16px;font-size: 22px;">Welcome, Ada Lovelace 💌</h1>' in html.get_content()
    assert desk.sent[0][1] == result.accepted == ("ada@example.org", "bob@example.org", "cyn@example.org")


@pytest.mark.parametrize("summary", ["\x00", "a\rb", "x" * 3000, "ü" * 3000, "\u2028\x85", "From here\n.\n"])
def test_nothing_but_short_lines_of_printable_ascii_travels(summary: str) -> None:
    desk = Desk()
    variables = {"title": "Sales", "summary": summary, "columns": [], "rows": []}
    run(SendEmail(template="report", to=("ada@example.org",), variables=variables), desk)
    lines = desk.sent[0][0].as_bytes().split(b"\r\n")
    assert all(line.isascii() and line.decode().replace("\t", " ").isprintable() for line in lines)
    assert max(len(line) for line in lines) <= 998  # RFC 5322, 2.1.1


def test_every_run_of_a_job_has_the_same_message_id_and_no_other_job_has_it() -> None:
    desk = Desk()
    run(JOB, desk), run(JOB, desk), run(JOB, desk, job_id="job-2")
    first, again, other = (message["Message-ID"] for message, _ in desk.sent)
    assert first == again != other


@given(st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_a_message_id_is_a_header_whatever_the_job_is_called(job_id: str) -> None:
    made = message_id(job_id.encode("utf-8", "replace").decode(), SENDER)
    left, _, right = made.partition("@")
    assert left[0] == "<"
    assert left[1:].isalnum()
    assert right == "example.com>"


def test_a_key_that_is_used_again_makes_another_email() -> None:
    desk = Desk()
    monday, wednesday = NOW, NOW + timedelta(days=2)
    for sent_at in (monday, wednesday, monday):
        run(JOB, desk, job_id="digest/ada", sent_at=sent_at)
    first, other, again = (message["Message-ID"] for message, _ in desk.sent)
    assert first == again != other


def test_a_remainder_keeps_the_message_id_of_the_first_job() -> None:
    follow_ups: list[SendEmail] = []
    first = Desk({"bob@example.org": 450})
    run(JOB, first, sent_at=NOW, follow_ups=follow_ups)
    second = Desk()
    run(follow_ups.pop(), second, job_id="job-2", sent_at=NOW + timedelta(hours=1))
    assert first.sent[0][0]["Message-ID"] == second.sent[0][0]["Message-ID"]


def test_a_remainder_of_an_earlier_version_has_the_message_id_of_its_first_job() -> None:
    desk = Desk()
    old = Remainder(job_id="job-1", recipients=("bob@example.org",))
    run(JOB.model_copy(update={"remainder": old}), desk, job_id="job-2", sent_at=NOW)
    assert desk.sent[0][0]["Message-ID"] == message_id("job-1", SENDER)


@pytest.mark.parametrize(
    "others",
    [
        ("ada@example.org",),
        ("ada@EXAMPLE.org",),
        ("Ada@example.org",),
        ('"ada"@example.org',),
        ("Ada Lovelace <ada@example.org>",),
    ],
)
def test_a_mailbox_named_twice_gets_one_copy(others: tuple[str, ...]) -> None:
    desk = Desk()
    result = run(JOB.model_copy(update={"to": ("ada@example.org", *others), "cc": others, "bcc": others}), desk)
    assert desk.sent[0][1] == result.accepted == ("ada@example.org",)


def test_two_forms_of_one_international_domain_are_one_mailbox() -> None:
    desk = Desk()
    run(JOB.model_copy(update={"to": ("ada@bücher.example", "ada@XN--BCHER-KVA.example"), "cc": ()}), desk)
    assert desk.sent[0][1] == ("ada@xn--bcher-kva.example",)


def test_the_result_names_addresses_as_the_job_does() -> None:
    desk = Desk({"bob@xn--bcher-kva.example": 550})
    result = run(JOB.model_copy(update={"to": ("ada@bücher.example", "bob@bücher.example"), "cc": ()}), desk)
    assert result.accepted == ("ada@bücher.example",)
    assert [one.address for one in result.refused] == ["bob@bücher.example"]


@pytest.mark.parametrize(
    "wrong",
    [
        "bob@" + "ü" * 60 + ".example",  # its label is longer than DNS allows
        "bob@192.0.2.1",  # no domain, and no address literal either
        "bob@example.123",
    ],
)
def test_a_domain_that_cannot_exist_costs_nobody_else_a_copy(wrong: str) -> None:
    desk = Desk()
    result = run(JOB.model_copy(update={"to": ("ada@example.org", wrong), "cc": ()}), desk)
    assert desk.sent[0][1] == result.accepted == ("ada@example.org",)
    assert [(one.address, one.code) for one in result.refused] == [(wrong, 553)]
    assert desk.sent[0][0]["To"] == "ada@example.org"
    with pytest.raises(AddressNotSupported, match="nobody can be written to"):
        run(JOB.model_copy(update={"to": (wrong,), "cc": ()}), desk)


def test_a_blind_copy_is_delivered_and_not_named() -> None:
    desk = Desk()
    result = run(JOB.model_copy(update={"bcc": ("eve@example.org",)}), desk)
    assert result.accepted[-1] == desk.sent[0][1][-1] == "eve@example.org"
    assert "eve@" not in desk.sent[0][0].as_string()


def test_a_long_list_is_divided_and_each_portion_is_a_job() -> None:
    people = tuple(f"person{number}@example.org" for number in range(50))
    job = JOB.model_copy(update={"to": people[:25], "cc": people[25:40], "bcc": people[40:]})
    portions: list[SendEmail] = []
    desk = Desk()
    result = run(job, desk, portions=portions, sent_at=NOW, rules=Rules(portion=20))
    assert (result.accepted, result.portions) == (people[:20], 3)
    for number, portion in enumerate(portions):
        over_the_wire = SendEmail.model_validate_json(portion.model_dump_json())
        run(over_the_wire, desk, job_id=f"child-{number}", portions=portions, sent_at=NOW, rules=Rules(portion=20))
    assert [recipients for _, recipients in desk.sent] == [people[:20], people[20:40], people[40:]]
    assert len(portions) == 2
    assert len({(m["Message-ID"], m["To"], m["Cc"], m["Subject"]) for m, _ in desk.sent}) == 1


def test_a_suppression_list_that_grows_between_two_runs_moves_nobody_to_another_portion() -> None:
    people = tuple(f"person{number}@example.org" for number in range(6))
    job = JOB.model_copy(update={"to": people, "cc": ()})
    runs: list[list[SendEmail]] = [[], []]
    desk = Desk(down=True)
    with pytest.raises(MailServerUnavailable):
        run(job, desk, portions=runs[0], rules=Rules(portion=2))
    desk.down = False
    result = run(job, desk, portions=runs[1], rules=Rules(portion=2), suppressed={people[0], people[2]})
    assert (result.accepted, [one.address for one in result.refused], result.portions) == (people[1:2], [people[0]], 3)
    assert runs[0] == runs[1]


def test_a_portion_in_which_nobody_can_be_written_to_costs_the_others_nothing() -> None:
    portions: list[SendEmail] = []
    with pytest.raises(Suppressed):
        run(JOB, Desk(), portions=portions, rules=Rules(portion=2), suppressed={"ada@example.org", "bob@example.org"})
    assert [one.remainder and one.remainder.recipients for one in portions] == [("cyn@example.org",)]


# What the settings allow -------------------------------------------------------------------------------------------


def test_a_job_sends_from_those_addresses_alone_that_are_allowed() -> None:
    rules = Rules(senders=frozenset({"support@shop.example", "@news.example"}))
    for sender in ("Acme <support@SHOP.example>", "weekly@news.example", SENDER):
        desk = Desk()
        run(JOB.model_copy(update={"sender": sender}), desk, rules=rules)
        assert desk.sent[0][0]["From"] == sender
        domain = sender.rpartition("@")[2].strip(">")
        assert desk.sent[0][0]["Message-ID"].endswith(f"@{domain}>")
    for sender in ("eve@shop.example", "a@sub.news.example", "a@evilnews.example"):
        with pytest.raises(NotAllowed, match="EMAIL_SENDERS"):
            run(JOB.model_copy(update={"sender": sender}), Desk(), rules=rules)


def test_a_job_sets_those_headers_alone_that_are_allowed() -> None:
    desk = Desk()
    run(JOB.model_copy(update={"headers": {"X-Tenant": "7"}}), desk, rules=Rules(headers=frozenset({"x-tenant"})))
    assert desk.sent[0][0]["X-Tenant"] == "7"
    with pytest.raises(NotAllowed, match="EMAIL_HEADERS"):
        run(JOB.model_copy(update={"headers": {"X-Other": "7"}}), Desk())


def test_nobody_writes_to_whom_the_suppression_list_names(tmp_path: Path) -> None:
    path = tmp_path / "suppressed"
    path.write_text("\ufeff# bounced\nBOB@example.org  # in May\n@gone.example\n\n", encoding="utf-8")
    listed = SuppressionList(path)
    desk = Desk()
    result = run(
        JOB.model_copy(update={"to": ("ada@example.org", "bob@example.org", "a@gone.example")}), desk, suppressed=listed
    )
    assert desk.sent[0][1] == result.accepted == ("ada@example.org", "cyn@example.org")
    assert [one.address for one in result.refused] == ["bob@example.org", "a@gone.example"]
    with pytest.raises(Suppressed):
        run(JOB.model_copy(update={"to": ("bob@example.org",), "cc": ()}), desk, suppressed=listed)
    path.write_text("cyn@example.org\n")
    assert run(JOB, desk, suppressed=listed).accepted == ("ada@example.org", "bob@example.org")
    path.unlink()
    with pytest.raises(SuppressionsUnreadable, match="EMAIL_SUPPRESSIONS"):
        run(JOB, desk, suppressed=listed)


@pytest.mark.parametrize(
    "line", ["bob@example.org,2026-01-01", "mailto:bob@example.org", "bob", "a@b.example c@d.example"]
)
def test_a_line_of_the_suppression_list_that_spares_nobody_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "suppressed"
    path.write_text(f"Ada <ada@example.org>\n{line}\n")
    with pytest.raises(SuppressionsUnreadable, match="line 2"):
        run(JOB, Desk(), suppressed=SuppressionList(path))
    path.write_text("Ada <ada@example.org>\n")
    assert run(JOB, Desk(), suppressed=SuppressionList(path)).accepted == ("bob@example.org", "cyn@example.org")


def test_the_variant_of_a_template_is_told_its_language(tmp_path: Path) -> None:
    for name, text in (("hi", "Hello {{ name }}"), ("hi.de", "Hallo {{ name }} ({{ language }})")):
        (tmp_path / name).mkdir()
        for part in ("subject.txt", "body.html", "body.txt"):
            (tmp_path / name / part).write_text(text)
    desk = Desk()
    send_email(
        SendEmail(template="hi", language="de-AT", to=("a@example.org",), variables={"name": "Ada"}),
        "job-1",
        renderer=TemplateRenderer.from_folder(tmp_path),
        mailer=desk,
        sender=SENDER,
        now=NOW,
        follow_up=print,
    )
    assert desk.sent[0][0]["Subject"] == "Hallo Ada (de-AT)"


# Attachments -------------------------------------------------------------------------------------------------------


def test_attachments_come_from_the_storage_within_their_bounds(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"x" * 60)
    (tmp_path / "b.txt").write_bytes(b"y" * 60)
    os.mkfifo(tmp_path / "pipe")
    stored = StoredAttachments(open_store(tmp_path.as_uri()), max_bytes=100)
    assert stored.read([Attachment(key="a.txt")])[0].data == b"x" * 60
    for keys, words in (
        (["a.txt", "b.txt"], "EMAIL_MAX_ATTACHMENT_BYTES"),
        (["gone"], "upload"),
        (["pipe"], "pipe"),
        (["x" * 300], "cannot be a key"),
        (["../outside"], "cannot be a key|upload"),
    ):
        with pytest.raises(AttachmentUnusable, match=words):
            stored.read([Attachment(key=key) for key in keys])
    with pytest.raises(AttachmentUnusable, match="EMAIL_STORAGE_URL"):
        StoredAttachments(None, max_bytes=100).read([Attachment(key="a.txt")])


def test_a_storage_that_is_away_is_no_fault_of_the_key(tmp_path: Path) -> None:
    stored = StoredAttachments(open_store(str(tmp_path)), max_bytes=100)
    tmp_path.rmdir()
    with pytest.raises(StorageUnavailable):
        stored.read([Attachment(key="a.txt")])


def test_a_mail_server_that_is_down_leaves_no_follow_up_behind() -> None:
    follow_ups: list[SendEmail] = []
    with pytest.raises(MailServerUnavailable):
        run(JOB, Desk(down=True), follow_ups=follow_ups)
    assert follow_ups == []


def test_who_was_refused_for_good_is_reported_and_not_tried_again() -> None:
    follow_ups: list[SendEmail] = []
    result = run(JOB, Desk({"bob@example.org": 550}), follow_ups=follow_ups)
    assert [(r.address, r.code) for r in result.refused] == [("bob@example.org", 550)]
    assert result.accepted == ("ada@example.org", "cyn@example.org")
    assert follow_ups == []


def test_who_was_refused_for_now_gets_the_same_email_later_and_nobody_gets_it_twice() -> None:
    follow_ups: list[SendEmail] = []
    first = Desk({"bob@example.org": 450, "cyn@example.org": 451})
    result = run(JOB, first, follow_ups=follow_ups)
    assert [r.address for r in result.deferred] == ["bob@example.org", "cyn@example.org"]

    second = Desk({"cyn@example.org": 451})
    over_the_wire = SendEmail.model_validate_json(follow_ups.pop().model_dump_json())
    run(over_the_wire, second, job_id="job-2", follow_ups=follow_ups)

    third = Desk()
    run(follow_ups.pop(), third, job_id="job-3", follow_ups=follow_ups)

    deliveries = [desk.sent[0] for desk in (first, second, third)]
    assert [recipients for _, recipients in deliveries[1:]] == [
        ("bob@example.org", "cyn@example.org"),
        ("cyn@example.org",),
    ]
    assert len({(m["Message-ID"], m["To"], m["Cc"], m["Subject"]) for m, _ in deliveries}) == 1
    assert follow_ups == []


# Header injection --------------------------------------------------------------------------------------------------

ENCODED_BCC = "=?utf-8?q?Hi=0D=0ABcc:_eve@example.org?="


@pytest.mark.parametrize(
    "subject", ["", "Hi\nBcc: eve@example.org", "Hi\rBcc: x", "Hi\x85x", "Hi\u2028x", "Hi\x00", f"Hi {ENCODED_BCC}"]
)
def test_a_subject_that_is_not_one_plain_line_is_permanent(subject: str) -> None:
    with pytest.raises(TemplateFailed, match=r"^the subject"):
        build_message(JOB, Rendered(subject, "<p>h</p>", "t"), sender=SENDER, now=NOW, message_id="<1@example.com>")


def test_a_variable_cannot_add_a_header_to_the_email() -> None:
    for name in ("Ada\nBcc: eve@example.org", ENCODED_BCC):
        desk = Desk()
        with pytest.raises(TemplateFailed):
            run(JOB.model_copy(update={"variables": {"name": name, "url": "x"}}), desk)
        assert desk.sent == []


def test_an_address_that_slipped_past_the_contract_is_stopped_by_the_message() -> None:
    forged = JOB.model_copy(update={"reply_to": "help@example.com\r\nBcc: eve@example.org"})
    with pytest.raises(ValueError, match="linefeed"):
        run(forged, Desk())


@given(st.text(min_size=1, max_size=120))
@settings(max_examples=150, deadline=None)
@example("Grüße =? ?= aus Köln")
@example("a" * 2000)
@example("ü" * 500)
def test_a_subject_is_refused_or_arrives_as_it_was_and_adds_no_header(subject: str) -> None:
    try:
        one_line(subject)
        rendered = Rendered(subject.strip(), "<p>h</p>", "t")
        message = build_message(JOB, rendered, sender=SENDER, now=NOW, message_id="<1@example.com>")
    except (TemplateFailed, UnicodeEncodeError):
        return
    seen = received(message)
    assert seen.keys() == [
        "From",
        "To",
        "Cc",
        "Reply-To",
        "Subject",
        "Date",
        "Message-ID",
        "Auto-Submitted",
        "MIME-Version",
        "Content-Type",
    ]
    assert seen["Subject"] == rendered.subject
