"""``jobkit dead-letters``: what a service could not do, and why; and sending it again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice

import pika
import pika.exceptions
import typer
from pika.adapters.blocking_connection import BlockingChannel, BlockingConnection

from jobkit.broker.topology import dead_letter_queue, jobs_exchange
from jobkit.cli.output import iso, moment, print_blocks, print_json, readable, times
from jobkit.cli.platform import connection, one_line_errors, platform
from jobkit.deadletters import Failure, sent_again

_NOT_FOUND = 404  # AMQP's reply code for a queue or an exchange that does not exist


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
            "sent again": times(failure.round),
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


@dataclass(frozen=True)
class _Taken:
    """A dead letter that this connection holds. Unless it is acked, it goes back where it was."""

    letter: Letter
    tag: int
    properties: pika.BasicProperties
    body: bytes


def show(service: str, limit: int, fingerprint: str | None, *, as_json: bool) -> None:
    """Print the oldest dead letters of a service; exit status 1 if it has never run on this broker."""
    with one_line_errors(), connection(platform(), "cli").open() as opened:
        channel, count = _open(opened, service)
        found = _take(channel, service, count, fingerprint)
        letters = [taken.letter for taken in islice(found, limit)]
        there_are_more = next(found, None) is not None
    _print(letters, fingerprint, as_json=as_json)
    if there_are_more:
        total = f" of {count}" if fingerprint is None else ""
        typer.echo(f"{len(letters)}{total}, the oldest; --limit shows more", err=True)


def send_again(service: str, limit: int, fingerprint: str | None, *, as_json: bool) -> None:
    """Send the oldest dead letters of a service to their queues again, and print them.

    Each is published, confirmed and then acked. One that was published and not acked, as something broke in between, is
    sent once more by the next command as the same message, and runs once. Exit status 1 if a queue is missing or takes
    none: its letters stay.
    """
    sent: list[Letter] = []
    problems: set[str] = set()
    with one_line_errors(), connection(platform(), "cli").open() as opened:
        # Only those that are there now: one that dies again at once would otherwise go round forever.
        channel, count = _open(opened, service)
        publishing = opened.channel()
        publishing.confirm_delivery()
        exchanges: dict[str, str] = {}
        for taken in islice(_take(channel, service, count, fingerprint), limit):
            queue = taken.letter.failure.queue
            if queue not in exchanges:
                exchanges[queue] = _exchange_for(opened, queue)
            body, taken.properties.headers = sent_again(taken.body, taken.properties.headers)
            try:
                publishing.basic_publish(exchanges[queue], queue, body, taken.properties, mandatory=True)
            except pika.exceptions.UnroutableError:
                problems.add(f"there is no queue {queue!r}: start the worker of its service, then send them again")
            except pika.exceptions.NackError:
                problems.add(f"the queue {queue!r} takes no messages now: it is full, or has no leader")
            else:
                channel.basic_ack(taken.tag)
                sent.append(taken.letter)
    if sent or as_json:
        _print(sent, fingerprint, as_json=as_json)
    typer.echo(f"sent again: {len(sent)} of {count}", err=True)
    for problem in sorted(problems):
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(1)


def _print(letters: Sequence[Letter], fingerprint: str | None, *, as_json: bool) -> None:
    if as_json:
        print_json([letter.document() for letter in letters])
    elif letters:
        print_blocks(letter.block() for letter in letters)
    else:
        typer.echo("no dead letters" if fingerprint is None else f"no dead letters with the fingerprint {fingerprint}")


def _open(opened: BlockingConnection, service: str) -> tuple[BlockingChannel, int]:
    """Return a channel for the dead letters of a service, and how many there are."""
    channel = opened.channel()
    try:
        return channel, channel.queue_declare(dead_letter_queue(service), passive=True).method.message_count
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        where = connection(platform(), "cli").where
        typer.echo(f"no service {service!r} has run on this broker ({where})", err=True)
        raise typer.Exit(1) from None


def _take(channel: BlockingChannel, service: str, count: int, fingerprint: str | None) -> Iterator[_Taken]:
    """Take the oldest dead letters, and yield those of one kind of failure, or all."""
    queue = dead_letter_queue(service)
    for _ in range(count):
        method, properties, body = channel.basic_get(queue)
        if method is None or properties is None or body is None:
            return
        failure = Failure.from_headers(properties.headers, queue)
        if fingerprint in (None, failure.fingerprint):
            letter = Letter(properties.message_id or "?", properties.type or "?", failure)
            yield _Taken(letter, method.delivery_tag, properties, body)


def _exchange_for(opened: BlockingConnection, queue: str) -> str:
    """Return where a queue's jobs are published: the default exchange if no worker has made its service's own yet."""
    exchange = jobs_exchange(queue)
    channel = opened.channel()
    try:
        channel.exchange_declare(exchange, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        if error.reply_code != _NOT_FOUND:
            raise
        return ""
    channel.close()
    return exchange
