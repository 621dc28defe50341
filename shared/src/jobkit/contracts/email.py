"""What the email service does: ``SendEmail``, and ``EmailSent`` as its answer."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, core_schema

from jobkit.contracts.job import Job

#: Recipients of one ``to``, ``cc`` or ``bcc``.
MAX_RECIPIENTS = 50

# Characters above ASCII without the C1 controls, and without what deceives a reader: spaces and separators, marks that
# are invisible or turn the direction of writing, and look-alikes of "." and "@".
_BEYOND_ASCII = (
    r"\u00a1-\u00ac\u00ae-\u034e\u0350-\u05ff\u0606-\u061b\u061d-\u06dc\u06de-\u070e\u0710-\u088f\u0892-\u08e1"
    r"\u08e3-\u115e\u1161-\u167f\u1681-\u17b3\u17b6-\u180a\u1810-\u1fff\u2070-\u27ff\u2801-\u2fff\u3001\u3003-\u3163"
    r"\u3165-\ud7ff\uf900-\ufdcf\ufdf0-\ufdff\ufe10-\ufe6a\ufe6c-\ufefe\uff01-\uff0d\uff0f-\uff1f\uff21-\uff60"
    r"\uff62-\uff9f\uffa1-\uffef"
)
# The atext of RFC 5322 but for "%" and "!", which old gateways read as a route to another host, and "?", which
# makes an encoded word (RFC 2047) together with "=".
_ATEXT = rf"A-Za-z0-9#$&'*+/=^_`{{|}}~{_BEYOND_ASCII}-"
_LABEL = rf"[A-Za-z0-9{_BEYOND_ASCII}]([A-Za-z0-9{_BEYOND_ASCII}-]{{0,61}}[A-Za-z0-9{_BEYOND_ASCII}])?"
# Quotes are taken around dots in odd places alone, as some Japanese carriers gave them.
_ADDRESS = rf"""([{_ATEXT}]+(\.[{_ATEXT}]+)*|"[.{_ATEXT}]+")@({_LABEL}\.)+{_LABEL}"""
# A display name: no controls, no angle brackets, nothing that ends a line or turns the direction of writing.
_UNNAMED = r"\x00-\x1f\x7f-\x9f<>\u00ad\u200b\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
_NAME = rf"[^\s{_UNNAMED}][^{_UNNAMED}]{{0,127}}"


def address_of(mailbox: str) -> str:
    """Return the address in ``Name <address>``, or the text itself if it is a plain address."""
    return mailbox.rpartition("<")[2].rstrip(">")


def _checked(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> str:
    try:
        mailbox: str = validate(value)
    except ValueError:  # a ValidationError quotes the pattern, which helps nobody
        return ""
    address = address_of(mailbox)
    fits = len(address) <= 254 and len(address.rpartition("@")[0].encode()) <= 64  # RFC 5321, 4.5.3.1
    return mailbox if fits else ""


def _plain_address(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> str:
    if address := _checked(value, validate):
        return address
    raise PydanticCustomError(
        "email_address",
        "must be one plain address such as ada@example.com, without a display name, spaces or a comma",
    )


def _mailbox(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> str:
    if mailbox := _checked(value, validate):
        return mailbox
    raise PydanticCustomError(
        "email_mailbox",
        "must be one address such as ada@example.com, or Ada Lovelace <ada@example.com>",
    )


#: One addr-spec in its dot-atom form (RFC 5322, 3.4.1), with letters beyond ASCII (RFC 6531). The domain has a dot.
#: No display name, comment or address literal: what cannot be written cannot be used for a trick.
Address = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ADDRESS}$", max_length=254),
    WrapValidator(_plain_address),
]

#: An address, or one with a display name before it: ``Ada Lovelace <ada@example.com>``. The name needs no quotes.
Mailbox = Annotated[
    str,
    StringConstraints(pattern=rf"^({_NAME} <{_ADDRESS}>|{_ADDRESS})$", max_length=400),
    WrapValidator(_mailbox),
]

#: A Message-ID with its angle brackets (RFC 5322, 3.6.4).
MessageId = Annotated[str, StringConstraints(pattern=r"^<[!-;=?-~]{1,250}@[!-;=?A-~]{1,250}>$")]

#: The name of a template's folder; it cannot leave the folder of templates.
TemplateName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


#: A language tag (RFC 5646): ``de``, ``pt-BR``.
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8}){0,3}$")]

#: The name of a header of the sender's own. Others are written by the service.
HeaderName = Annotated[str, StringConstraints(pattern=r"^[Xx]-[A-Za-z0-9-]{1,60}$")]

#: One line of text.
HeaderValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]{1,900}$")]


class Attachment(BaseModel):
    """A file in the storage of the email service that travels with the e-mail."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str = Field(min_length=1, max_length=1024, description="Where it is, in the storage of EMAIL_STORAGE_URL.")
    name: str | None = Field(
        default=None,
        pattern=r"^[^\x00-\x1f\x7f-\x9f/\\\u2028-\u202e\u2066-\u2069]{1,200}$",
        description="The file name that the reader sees, in any script. None takes the last part of the key.",
    )
    content_type: str | None = Field(
        default=None,
        pattern=r"^(application|audio|font|image|model|text|video)/[A-Za-z0-9][A-Za-z0-9.+_-]{0,80}$",
        description="Its media type. None guesses from the name.",
    )
    inline: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description='Show it within the HTML, where a template says `<img src="cid:logo">`: here it is `logo`.',
    )


class Remainder(BaseModel):
    """The recipients that an earlier job could not reach yet, while the others have their copy.

    The email service sends itself a job with this; a producer never needs it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str = Field(max_length=255, description="The first job: its copies and these share one Message-ID.")
    recipients: tuple[Address, ...] = Field(
        min_length=1, max_length=3 * MAX_RECIPIENTS, description="Those of `to`, `cc` and `bcc` who have no copy yet."
    )
    message_id: MessageId | None = Field(
        default=None, description="The Message-ID of the first job. None: sent by an earlier version of the service."
    )


class SendEmail(Job, queue="email", lanes=("high", "normal", "low")):
    """Render a template and send it as one e-mail, with an HTML and a text part."""

    template: TemplateName = Field(description="Name of the template, such as `welcome`.")
    to: tuple[Mailbox, ...] = Field(
        min_length=1, max_length=MAX_RECIPIENTS, description="Main recipients; each sees the others."
    )
    cc: tuple[Mailbox, ...] = Field(default=(), max_length=MAX_RECIPIENTS, description="Recipients of a copy.")
    bcc: tuple[Mailbox, ...] = Field(
        default=(), max_length=MAX_RECIPIENTS, description="Recipients of a copy whom nobody else sees."
    )
    sender: Mailbox | None = Field(
        default=None,
        description="Who it is from: an address that EMAIL_SENDER or EMAIL_SENDERS allows. None takes EMAIL_SENDER.",
    )
    reply_to: Mailbox | None = Field(default=None, description="Where answers go, if not to the sender.")
    variables: dict[str, JsonValue] = Field(
        default_factory=dict, description="What the template shows. One that it uses and that is missing is an error."
    )
    language: Language | None = Field(
        default=None,
        description="Takes the template's variant in that language: for `de-AT` the first of `welcome.de-AT`, "
        "`welcome.de` and `welcome` that exists.",
    )
    attachments: tuple[Attachment, ...] = Field(default=(), max_length=20, description="Files that travel along.")
    unsubscribe: str | None = Field(
        default=None,
        pattern=r"^https://[!-;=?-~]{1,900}$",
        description="An address that unsubscribes the recipient when it gets a POST request (RFC 8058).",
    )
    in_reply_to: MessageId | None = Field(default=None, description="The e-mail that this one answers.")
    references: tuple[MessageId, ...] = Field(
        default=(), max_length=50, description="The earlier e-mails of the conversation, oldest first."
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default_factory=dict, max_length=20, description="Headers of your own, of those that EMAIL_HEADERS allows."
    )
    remainder: Remainder | None = Field(default=None, description="Set by the email service itself.")

    @model_validator(mode="after")
    def _remainder_is_addressed(self) -> Self:
        addressed = {address_of(mailbox) for mailbox in (*self.to, *self.cc, *self.bcc)}
        if self.remainder and (hidden := set(self.remainder.recipients) - addressed):
            raise ValueError(f"remainder.recipients holds {min(hidden)}, who is neither in to nor in cc or bcc")
        return self


class Refusal(BaseModel):
    """A recipient whom the mail server refused, and its answer."""

    model_config = ConfigDict(frozen=True)

    address: str
    code: int = Field(description="SMTP reply code: 4xx may be accepted later, 5xx mostly not.")
    reason: str = Field(description="The server's words, shortened.")


class EmailSent(BaseModel):
    """The recorded result of ``SendEmail``: the mail server has taken the e-mail for ``accepted``.

    A mailbox that is named twice is in it once, as it was written first.
    """

    model_config = ConfigDict(frozen=True)

    message_id: str = Field(description="With angle brackets, as in the header.")
    accepted: tuple[str, ...] = Field(description="Recipients for whom the mail server took it.")
    refused: tuple[Refusal, ...] = Field(
        default=(), description="Recipients refused for good: by the server (5xx), or by the suppression list."
    )
    deferred: tuple[Refusal, ...] = Field(
        default=(), description="Recipients refused for now: a follow-up job brings them their copy."
    )
    unknown: tuple[str, ...] = Field(
        default=(),
        description="Recipients who may have none, one or two copies: twice the server had all and did not answer.",
    )
    portions: int = Field(
        default=1, description="Jobs among which a long list was divided, this one included. Each has its own result."
    )
