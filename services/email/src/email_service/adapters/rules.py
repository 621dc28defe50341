"""What the settings say of every e-mail: who it may be from, and how it is handed over."""

from dataclasses import dataclass
from datetime import timedelta

from email_service.adapters.addresses import domain_of, mailbox_key
from email_service.adapters.mailer import DOT_SECONDS
from email_service.errors import NotAllowed
from jobkit.contracts.email import SendEmail, address_of


@dataclass(frozen=True)
class Rules:
    """What the settings say of every e-mail.

    Attributes:
        senders: Addresses that a job may send from beside the usual one; ``@example.com`` stands for all of a domain.
        headers: Names of headers that a job may set, in lower case.
        portion: Recipients of one conversation with the mail server. The others get a job of their own.
        dot_wait: How long the answer to the final dot may take.
        again_after: How long an unknown outcome rests until the e-mail is sent once more.
    """

    senders: frozenset[str] = frozenset()
    headers: frozenset[str] = frozenset()
    portion: int = 100
    dot_wait: timedelta = timedelta(seconds=DOT_SECONDS)
    again_after: timedelta = timedelta(hours=1)

    def sender_of(self, job: SendEmail, usual: str) -> str:
        """Return who the e-mail is from.

        Raises:
            NotAllowed: the job may not send from there.
        """
        if job.sender is None:
            return usual
        key = mailbox_key(address_of(job.sender))
        allowed = {mailbox_key(address_of(usual)), *map(mailbox_key, self.senders)}
        if key not in allowed and f"@{domain_of(key)}" not in allowed:
            raise NotAllowed(f"{address_of(job.sender)} is not among the senders that EMAIL_SENDERS allows")
        return job.sender

    def check_headers(self, job: SendEmail) -> None:
        """Raise ``NotAllowed`` for a header that the settings do not allow."""
        for name in job.headers:
            if name.lower() not in self.headers:
                raise NotAllowed(f"the header {name} is not among those that EMAIL_HEADERS allows")
