from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from email_service.adapters.renderer import Rendered, TemplateRenderer
from email_service.errors import MailServerUnavailable, TemplateFailed
from email_service.handlers import build_message, message_id, one_line, send_email
from jobkit.contracts.email import EmailSent, Refusal, SendEmail

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

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> tuple[Refusal, ...]:
        if self.down:
            raise MailServerUnavailable("127.0.0.1:25 cannot be reached")
        self.sent.append((message, tuple(recipients)))
        return tuple(Refusal(address=a, code=self.refusals[a], reason="no") for a in recipients if a in self.refusals)


def run(job: SendEmail, desk: Desk, *, job_id: str = "job-1", follow_ups: list[SendEmail] | None = None) -> EmailSent:
    return send_email(
        job,
        job_id,
        renderer=RENDERER,
        mailer=desk,
        sender=SENDER,
        now=NOW,
        follow_up=(follow_ups if follow_ups is not None else []).append,
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


def test_an_addressee_named_twice_gets_one_copy() -> None:
    desk = Desk()
    run(JOB.model_copy(update={"to": ("ada@example.org",) * 2, "cc": ("ada@example.org",)}), desk)
    assert desk.sent[0][1] == ("ada@example.org",)


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
