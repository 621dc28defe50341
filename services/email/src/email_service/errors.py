"""Why an e-mail could not be sent, and whether trying again can help."""

from jobkit.errors import PermanentError, TransientError

# For good --------------------------------------------------------------------------------------------------------


class TemplateMissing(PermanentError):
    """No template of that name exists, or one of its parts is missing."""


class TemplateFailed(PermanentError):
    """The template and the variables do not make an e-mail: a mistake in either, which time does not mend."""


class MessageRefused(PermanentError):
    """The mail server refused the e-mail, or all its recipients, for good (5xx)."""


class AddressNotSupported(PermanentError):
    """An address has letters beyond ASCII, and the mail server does not take such (RFC 6531)."""


# For now ---------------------------------------------------------------------------------------------------------


class TemplatesUnreadable(TransientError):
    """The folder of templates cannot be read at the moment."""


class MailServerUnavailable(TransientError):
    """The mail server cannot be reached, did not answer in time or hung up."""


class MailServerMisconfigured(TransientError):
    """The mail server refuses us whatever the e-mail: a setting is wrong, so the job waits for it to be put right."""


class MessageDeferred(TransientError):
    """The mail server does not take the e-mail now, but may later (4xx)."""
