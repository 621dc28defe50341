"""Why an e-mail could not be sent, and whether trying again can help."""

from jobkit.errors import PermanentError, TransientError

# For good --------------------------------------------------------------------------------------------------------


class TemplateMissing(PermanentError):
    """No template of that name exists, or one of its parts is missing."""


class TemplateFailed(PermanentError):
    """The template and the variables do not make an e-mail: a mistake in either, which time does not mend."""


class MessageRefused(PermanentError):
    """The mail server refused the e-mail, or all its recipients, for good (5xx), or it is too large for the server."""


class AddressNotSupported(PermanentError):
    """No recipient can be reached: each has letters beyond ASCII that the mail server does not take (RFC 6531)."""


class NotAllowed(PermanentError):
    """The job asks for a sender or a header that the settings do not allow."""


class Suppressed(PermanentError):
    """Every recipient is on the suppression list."""


class AttachmentUnusable(PermanentError):
    """An attachment is not in the storage, is too large, or cannot be read by us."""


# For now ---------------------------------------------------------------------------------------------------------


class TemplatesUnreadable(TransientError):
    """The folder of templates cannot be read at the moment."""


class SuppressionsUnreadable(TransientError):
    """The suppression list cannot be read at the moment."""


class StorageUnavailable(TransientError):
    """The storage of the attachments does not answer."""


class AttachmentForbidden(TransientError):
    """The storage refuses us one attachment. S3 answers so for a missing one, too, to whom may not list the bucket."""


class MailServerUnavailable(TransientError):
    """The mail server cannot be reached, did not answer in time or hung up."""


class MailServerMisconfigured(TransientError):
    """The mail server refuses us whatever the e-mail: a setting is wrong, so the job waits for it to be put right."""


class SenderDistrusted(TransientError):
    """The mail server refuses this e-mail for what we are or for its sender, not for its recipient.

    Others may pass.
    """


class MessageDeferred(TransientError):
    """The mail server does not take the e-mail now, but may later: 4xx, or a limit of rate that it tells as 5xx."""


class QuotaReached(MessageDeferred):
    """The mail server takes no more of our mail for some hours, a day's quota being used up."""


class TooManyConnections(TransientError):
    """The mail server has enough connections of ours at the moment."""


class OutcomeUnknown(TransientError):
    """The server had the whole message, and its answer did not arrive: it may have taken it or not."""
