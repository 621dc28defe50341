"""The e-mail as it travels: its headers, its bodies and what is attached."""

import copy
import mimetypes
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email import policy
from email.charset import BASE64, Charset
from email.header import Header
from email.message import EmailMessage

from email_service.adapters.addresses import on_the_wire
from email_service.adapters.renderer import Rendered
from email_service.errors import TemplateFailed
from jobkit.contracts.email import Attachment, SendEmail, address_of

# 7bit: whatever the server announces, only ASCII goes over the wire (headers with SMTPUTF8 apart). The headers are
# folded here: the standard library loses spaces between encoded words and writes malformed ones.
_ASCII = policy.SMTP.clone(cte_type="7bit", refold_source="none")
_INTERNATIONAL = policy.SMTPUTF8.clone(cte_type="7bit", refold_source="none")

# The other encoding, Q, may begin a word with "=", which some readers take for the end of the one before.
_BASE64 = Charset("utf-8")
_BASE64.header_encoding = BASE64

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]+")

#: Characters per line that RFC 5322 (2.1.1) recommends.
_LINE = 78

#: The headers that name mailboxes.
_MAILBOXES = ("From", "To", "Cc", "Reply-To")


@dataclass(frozen=True)
class AttachedFile:
    """An attachment with its bytes."""

    attachment: Attachment
    data: bytes

    @property
    def name(self) -> str:
        """The file name that the reader sees."""
        return self.attachment.name or self.attachment.key.rstrip("/").rpartition("/")[2]

    @property
    def media_type(self) -> tuple[str, str]:
        """Its type and subtype: ``("image", "png")``."""
        found = self.attachment.content_type or mimetypes.guess_type(self.name)[0] or "application/octet-stream"
        main, _, sub = found.partition("/")
        return (main, sub) if main != "message" else ("application", "octet-stream")


def build_message(
    job: SendEmail,
    rendered: Rendered,
    *,
    sender: str,
    now: datetime,
    message_id: str,
    files: Sequence[AttachedFile] = (),
) -> EmailMessage:
    """Return the e-mail: a text and an HTML alternative (RFC 2046, 5.1.4), and the headers a good sender sets.

    It is made for SMTPUTF8 if the part before an address's "@" is not ASCII; see ``downgraded``.

    Raises:
        TemplateFailed: the subject cannot be a header.
        ValueError: another header value holds a line break: the second lock, after the contract's.
    """
    named = [*job.to, *job.cc, *([job.reply_to] if job.reply_to else [])]
    local_parts = [address_of(mailbox).rpartition("@")[0] for mailbox in (sender, *named)]
    message = EmailMessage(policy=_ASCII if all(part.isascii() for part in local_parts) else _INTERNATIONAL)
    _add(message, "From", mailbox_list("From", [sender]))
    if to := reachable(job.to):
        _add(message, "To", mailbox_list("To", to))
    if cc := reachable(job.cc):
        _add(message, "Cc", mailbox_list("Cc", cc))
    if job.reply_to:
        _add(message, "Reply-To", mailbox_list("Reply-To", [job.reply_to]))
    _add(message, "Subject", header_text("Subject", one_line(rendered.subject)))
    message["Date"] = now
    _add(message, "Message-ID", message_id)
    if job.in_reply_to:
        _add(message, "In-Reply-To", job.in_reply_to)
    if thread := tuple(dict.fromkeys((*job.references, *((job.in_reply_to,) if job.in_reply_to else ())))):
        _add(message, "References", "\r\n ".join(thread))
    if job.unsubscribe:
        _add(message, "List-Unsubscribe", f"<{job.unsubscribe}>")
        _add(message, "List-Unsubscribe-Post", "List-Unsubscribe=One-Click")  # RFC 8058
    for name, value in job.headers.items():
        _add(message, name, header_text(name, value))
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office notes in return, please
    message.set_content(rendered.text, cte="quoted-printable")
    message.add_alternative(rendered.html, subtype="html", cte="quoted-printable")
    _attach(message, files)
    return message


def downgraded(message: EmailMessage) -> EmailMessage:
    """Return the e-mail for a server without SMTPUTF8: its headers name no address with letters beyond ASCII.

    Such an address has no form that the server could take, so the others get the e-mail without it.
    """
    plain = copy.deepcopy(message)
    plain.policy = _ASCII
    for part in plain.walk():
        part.policy = _ASCII
    for name in _MAILBOXES:
        found = message[name]
        if found is not None:
            del plain[name]
            kept = [
                f"{one.display_name} <{one.addr_spec}>" if one.display_name else one.addr_spec
                for one in found.addresses
                if one.addr_spec.isascii()
            ]
            if kept:
                _add(plain, name, mailbox_list(name, kept))
    if "To" not in plain and "Cc" not in plain:
        _add(plain, "To", "undisclosed-recipients:;")
    return plain


def one_line(subject: str) -> str:
    """The subject, if it can be a header as it is.

    Raises:
        TemplateFailed: it is empty; it holds a control character or another kind of line break; or it holds "=?", the
            start of an encoded word (RFC 2047), in which a reader's program would find what nobody has seen.
    """
    if not subject:
        raise TemplateFailed("the subject is empty")
    bad = next((c for c in subject if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None)
    if bad is not None:
        raise TemplateFailed(f"the subject holds {bad!a}, but must be one line without control characters")
    if "=?" in subject:
        raise TemplateFailed("the subject holds '=?', which begins an encoded word and could hide a line break")
    return subject


def header_text(name: str, text: str) -> str:
    """Return a header's text in ASCII, folded into lines that every mail reader joins to the same text again.

    What does not fit as it is becomes encoded words (RFC 2047) as a whole: blanks between such words do not count, so
    none may stand for one of the text's own.
    """
    if text.isascii() and "=?" not in text:
        if len(name) + 2 + len(text) <= _LINE:
            return text
        indent = " " * (len(name) + 2)
        lines = textwrap.wrap(text, _LINE - 2, initial_indent=indent, break_long_words=False, break_on_hyphens=False)
        # Only if a reader gets the same back, and no line is a long word alone.
        if " ".join(lines).strip() == text and max(map(len, lines)) < _LINE:
            return "\r\n ".join(lines).strip()
    return encoded_words(name, text)


def encoded_words(name: str, text: str) -> str:
    """Return ``text`` as encoded words, one a line. Each holds whole characters and decodes by itself."""
    return Header(text, _BASE64, maxlinelen=76, header_name=name).encode(linesep="\r\n")


def mailbox_list(name: str, mailboxes: Iterable[str]) -> str:
    """Return the value of a header that names mailboxes, one a line."""
    return ",\r\n ".join(_mailbox(name, mailbox) for mailbox in mailboxes)


def reachable(mailboxes: Iterable[str]) -> list[str]:
    """Return those whose domain can exist."""
    kept = []
    for mailbox in mailboxes:
        try:
            on_the_wire(address_of(mailbox))
        except ValueError:
            continue
        kept.append(mailbox)
    return kept


def _mailbox(header: str, mailbox: str) -> str:
    address = on_the_wire(address_of(mailbox))
    shown = mailbox.rpartition("<")[0].strip() if mailbox.endswith(">") else ""
    if len(shown) > 1 and shown[0] == shown[-1] == '"':  # somebody has quoted it already
        shown = re.sub(r"\\(.)", r"\1", shown[1:-1])
    if not shown:
        return address
    if not shown.isascii() or "=?" in shown:
        return f"{encoded_words(header, shown)}\r\n <{address}>"
    if _ATOMS.fullmatch(shown):
        return f"{shown} <{address}>"
    quoted = re.sub(r'(["\\])', r"\\\1", shown)
    return f'"{quoted}" <{address}>'


def _add(message: EmailMessage, name: str, folded: str) -> None:
    """Add a header whose value is folded already. ``EmailMessage`` would parse it and fold it again."""
    if re.search(r"[\r\n]", folded.replace("\r\n ", "")):
        raise ValueError(f"{name} must not hold a linefeed or carriage return")
    message.set_raw(name, folded)


def _attach(message: EmailMessage, files: Sequence[AttachedFile]) -> None:
    html = message.get_body(("html",))
    for file in files:
        main, sub = file.media_type
        if file.attachment.inline and isinstance(html, EmailMessage):
            cid = f"<{file.attachment.inline}>"
            html.add_related(file.data, main, sub, cid=cid, filename=file.name, disposition="inline")
    for file in files:
        main, sub = file.media_type
        if not file.attachment.inline:
            message.add_attachment(file.data, main, sub, filename=file.name)
