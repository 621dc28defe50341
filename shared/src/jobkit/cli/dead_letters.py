"""``jobkit dead-letters``: what a service could not do, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pika.exceptions
import typer

from jobkit.broker.connection import ConnectionSettings
from jobkit.broker.topology import dead_letter_queue
from jobkit.cli.output import iso, moment, print_blocks, print_json, readable
from jobkit.cli.platform import connection, one_line_errors, platform
from jobkit.deadletters import Failure

_NOT_FOUND = 404  # AMQP's reply code for a queue that does not exist


@dataclass(frozen=True)
class Letter:
    """A dead letter without its payload, which is nobody's to read here."""

    job_id: str
    actor: str
    failure: Failure

    def block(self) -> Mapping[str, str]:
        """For people; what is not known has no value."""
        failure = self.failure
        return {
            "job": self.job_id,
            "actor": self.actor,
            "queue": failure.queue,
            "reason": failure.reason,
            "attempts": str(failure.attempts),
            "died": readable(moment(failure.died_at)),
            "fingerprint": failure.fingerprint,
            "failure": f"{failure.type}: {failure.message}" if failure.type else failure.message,
        }

    def document(self) -> Mapping[str, object]:
        """For programs: the whole record of the failure."""
        failure = self.failure
        times = ("sent_at", "first_failed_at", "died_at")
        return {
            "job_id": self.job_id,
            "actor": self.actor,
            **asdict(failure),
            **{name: iso(moment(getattr(failure, name))) for name in times},
        }


def show(service: str, limit: int, *, as_json: bool) -> None:
    """Print the oldest dead letters of a service; exit status 1 if it has never run on this broker."""
    with one_line_errors():
        letters, count = _peek(connection(platform(), "cli"), service, limit)
    if as_json:
        print_json([letter.document() for letter in letters])
    elif letters:
        print_blocks(letter.block() for letter in letters)
    else:
        typer.echo("no dead letters")
    if count > len(letters):
        typer.echo(f"{len(letters)} of {count}, the oldest; --limit shows more", err=True)


def _peek(settings: ConnectionSettings, service: str, limit: int) -> tuple[list[Letter], int]:
    # Nothing is acked, so closing the connection puts everything back where it was.
    letters: list[Letter] = []
    queue = dead_letter_queue(service)
    with settings.open() as opened:
        channel = opened.channel()
        try:
            count = channel.queue_declare(queue, passive=True).method.message_count
        except pika.exceptions.ChannelClosedByBroker as error:
            if error.reply_code != _NOT_FOUND:
                raise
            typer.echo(f"no service {service!r} has run on this broker ({settings.where})", err=True)
            raise typer.Exit(1) from None
        while len(letters) < limit:
            method, properties, _body = channel.basic_get(queue)
            if method is None or properties is None:
                break
            failure = Failure.from_headers(properties.headers, queue)
            letters.append(Letter(properties.message_id or "?", properties.type or "?", failure))
    return letters, count
