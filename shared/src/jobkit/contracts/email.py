"""What the email service does: ``SendEmail``, and ``EmailSent`` as its answer."""

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, WrapValidator, model_validator
from pydantic_core import PydanticCustomError, core_schema

from jobkit.contracts.job import Job

#: Recipients of one ``to`` or ``cc``. Both together stay within the 100 that every server takes (RFC 5321, 4.5.3.1.8).
MAX_RECIPIENTS = 50

# Characters above ASCII without the C1 controls and the spaces, separators and invisible marks that deceive a reader.
_BEYOND_ASCII = r"\u00a1-\u167f\u1681-\u1fff\u2070-\u2fff\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufefe\uff01-\uffef"
# The atext of RFC 5322 but for "%" and "!", which old gateways read as a route to another host, and "?", which
# makes an encoded word (RFC 2047) together with "=".
_ATOM = rf"[A-Za-z0-9#$&'*+/=^_`{{|}}~{_BEYOND_ASCII}-]+"
_LABEL = rf"[A-Za-z0-9{_BEYOND_ASCII}]([A-Za-z0-9{_BEYOND_ASCII}-]{{0,61}}[A-Za-z0-9{_BEYOND_ASCII}])?"


def _plain_address(value: object, validate: core_schema.ValidatorFunctionWrapHandler) -> str:
    try:
        address: str = validate(value)
    except ValueError:  # a ValidationError quotes the pattern, which helps nobody
        address = ""
    if not address or len(address.partition("@")[0].encode()) > 64:
        raise PydanticCustomError(
            "email_address",
            "must be one plain address such as ada@example.com, without a display name, quotes, spaces or a comma",
        )
    return address


#: One addr-spec in its dot-atom form (RFC 5322, 3.4.1), with letters beyond ASCII (RFC 6531). The domain has a dot.
#: No display name, quoted string, comment or address literal: what cannot be written cannot be used for a trick.
Address = Annotated[
    str,
    StringConstraints(pattern=rf"^{_ATOM}(\.{_ATOM})*@({_LABEL}\.)+{_LABEL}$", max_length=254),
    WrapValidator(_plain_address),
]

#: The name of a template's folder; it cannot leave the folder of templates.
TemplateName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class Remainder(BaseModel):
    """The recipients that an earlier job could not reach yet, while the others have their copy.

    The email service sends itself a job with this; a producer never needs it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    job_id: str = Field(max_length=255, description="The first job: its copies and these share one Message-ID.")
    recipients: tuple[Address, ...] = Field(
        min_length=1, max_length=2 * MAX_RECIPIENTS, description="Those of `to` and `cc` who have no copy yet."
    )


class SendEmail(Job, queue="email", lanes=("high", "normal", "low")):
    """Render a template and send it as one e-mail, with an HTML and a text part."""

    template: TemplateName = Field(description="Name of the template, such as `welcome`.")
    to: tuple[Address, ...] = Field(
        min_length=1, max_length=MAX_RECIPIENTS, description="Main recipients; each sees the others."
    )
    cc: tuple[Address, ...] = Field(default=(), max_length=MAX_RECIPIENTS, description="Recipients of a copy.")
    reply_to: Address | None = Field(default=None, description="Where answers go, if not to the sender.")
    variables: dict[str, JsonValue] = Field(
        default_factory=dict, description="What the template shows. One that it uses and that is missing is an error."
    )
    remainder: Remainder | None = Field(default=None, description="Set by the email service itself.")

    @model_validator(mode="after")
    def _remainder_is_addressed(self) -> Self:
        if self.remainder and (hidden := set(self.remainder.recipients) - {*self.to, *self.cc}):
            raise ValueError(f"remainder.recipients holds {min(hidden)}, who is neither in to nor in cc")
        return self


class Refusal(BaseModel):
    """A recipient whom the mail server refused, and its answer."""

    model_config = ConfigDict(frozen=True)

    address: str
    code: int = Field(description="SMTP reply code: 4xx may be accepted later, 5xx never.")
    reason: str = Field(description="The server's words, shortened.")


class EmailSent(BaseModel):
    """The recorded result of ``SendEmail``: the mail server has taken the e-mail for ``accepted``."""

    model_config = ConfigDict(frozen=True)

    message_id: str = Field(description="With angle brackets, as in the header.")
    accepted: tuple[str, ...] = Field(description="Recipients for whom the mail server took it.")
    refused: tuple[Refusal, ...] = Field(default=(), description="Recipients refused for good (5xx).")
    deferred: tuple[Refusal, ...] = Field(
        default=(), description="Recipients refused for now (4xx): a follow-up job brings them their copy."
    )
