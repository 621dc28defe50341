"""The e-mails: two welcomes, one of them sent twice, and a report of what the other services did."""

from collections.abc import Iterator, Sequence
from email.message import EmailMessage
from pathlib import Path

from board import Board, Entry
from pydantic import JsonValue
from stage import Finding

from jobkit.contracts.email import EmailSent, SendEmail
from local_stack.mailcatcher import MailCatcher

READERS = {"Reader": "reader@example.com", "Writer": "writer@example.org"}
EDITOR = "editor@example.com"
SIGN_IN = "https://example.com/sign-in"
REPORT = "What the demo did"


class Mail:
    """The e-mails.

    Args:
        catcher: The mail server that keeps them.
    """

    title = "E-mails"

    def __init__(self, catcher: MailCatcher) -> None:
        self._catcher = catcher
        self._sent: dict[str, EmailSent] = {}
        self._lines: list[list[str]] = []

    @property
    def place(self) -> Path:
        """The mail catcher's folder: one file per message."""
        return self._catcher.folder

    def prepare(self) -> None:
        """Nothing: the templates are in the service's package."""

    def run(self, board: Board) -> None:
        """Welcome everybody. The first welcome is sent a second time under its key, as a producer in doubt would.

        Not before it is done: a copy that finds it running is deferred, and could come back while the workers stop.
        """
        sent: list[tuple[str, SendEmail, Entry]] = []
        for number, (name, address) in enumerate(READERS.items()):
            job = SendEmail(template="welcome", to=(address,), variables={"name": name, "url": SIGN_IN})
            title = f"welcome to {address}" + (" (twice)" if number == 0 else "")
            sent.append((address, job, board.send(title, job, key=f"welcome/{address}")))
        for number, (address, job, entry) in enumerate(sent):
            self._sent[address] = EmailSent.model_validate_json(board.done(entry).result)
            if number == 0:
                board.send(entry.title, job, key=f"welcome/{address}", again=True)

    def report(self, board: Board, lines: Sequence[tuple[str, str]]) -> None:
        """Send the report about the other services."""
        self._lines = [list(line) for line in lines]
        variables: dict[str, JsonValue] = {
            "title": REPORT,
            "summary": "Each line was recorded by the service that did the work.",
            "columns": ["Part", "Result"],
            "rows": [list(line) for line in self._lines],
        }
        job = SendEmail(template="report", to=(EDITOR,), variables=variables)
        entry = board.send(f"report to {EDITOR}", job, key="report")
        self._sent[EDITOR] = EmailSent.model_validate_json(board.done(entry).result)

    def headline(self) -> str:
        """How many were sent."""
        return f"{len(self._sent)} e-mails accepted by the mail server"

    def findings(self) -> Iterator[Finding]:
        """Read the messages as they arrived."""
        messages = self._catcher.messages()
        expected = len(READERS) + 1
        yield Finding(f"{len(messages)} messages have arrived, {expected} expected", len(messages) == expected)
        for number, (name, address) in enumerate(READERS.items()):
            yield self._arrived(messages, address, f"Welcome, {name}", [name, SIGN_IN], sent=1 + (number == 0))
        yield self._arrived(messages, EDITOR, REPORT, [cell for line in self._lines for cell in line], sent=1)

    def _arrived(
        self, messages: Sequence[EmailMessage], address: str, subject: str, words: Sequence[str], *, sent: int
    ) -> Finding:
        copies = [message for message in messages if message["To"] == address]
        good = len(copies) == 1 and _says(copies[0], subject, words) and self._is_the_recorded(copies[0], address)
        although = ", though sent twice" if sent > 1 else ""
        how = "once" if good else f"{len(copies)} times" if len(copies) != 1 else "once, but not as it should be"
        right = "; HTML and text are right" if good else ""
        return Finding(f"“{subject}” to {address}: arrived {how}{although}{right}", good)

    def _is_the_recorded(self, message: EmailMessage, address: str) -> bool:
        return address in self._sent and message["Message-ID"] == self._sent[address].message_id


def _says(message: EmailMessage, subject: str, words: Sequence[str]) -> bool:
    bodies = [message.get_body((kind,)) for kind in ("plain", "html")]
    texts = [body.get_content() for body in bodies if body is not None]
    return message["Subject"] == subject and len(texts) == 2 and all(w in text for text in texts for w in words)
