"""A job that can never succeed, and the dead letter that it becomes."""

from collections.abc import Iterator, Sequence

from board import Board, Entry, Letter
from stage import Finding

from jobkit.contracts.email import SendEmail
from jobkit.deadletters import Reason

TEMPLATE = "no-such-template"


class Mishap:
    """An e-mail from a template that does not exist."""

    title = "Dead letter"
    place = None

    def __init__(self) -> None:
        self.letters: Sequence[Letter] = ()
        self._entry: Entry | None = None

    def prepare(self) -> None:
        """Nothing: that something is missing is the point."""

    def run(self, board: Board) -> None:
        """Send the job and wait for its end; the letter stays in ``email.dlq``."""
        job = SendEmail(template=TEMPLATE, to=("nobody@example.com",))
        self._entry = board.send("a template that does not exist", job)
        board.ended(self._entry)
        self.letters = board.dead_letters("email")

    def headline(self) -> str:
        """Why it died."""
        return "; ".join(letter.failure.message for letter in self.letters)

    def findings(self) -> Iterator[Finding]:
        """Compare the letter with the job."""
        yield Finding(f"email.dlq holds {len(self.letters)} dead letter, 1 expected", len(self.letters) == 1)
        for letter in self.letters:
            failure = letter.failure
            expected = failure.reason == Reason.PERMANENT and failure.attempts == 1 and TEMPLATE in failure.message
            ours = self._entry is not None and letter.job_id == self._entry.receipt.job_id
            yield Finding(
                f"{letter.actor}: {failure.reason}, {failure.type} at attempt {failure.attempts}", expected and ours
            )
