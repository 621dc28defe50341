"""A mail server that accepts everything, delivers nothing, and keeps each message as a file."""

import argparse
import asyncio
import os
import signal
import smtplib
import sys
import time
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from local_stack.node import Node
from local_stack.ports import LOOPBACK
from local_stack.process import Process


class MailCatcher(Node):
    """An SMTP server for tests and demonstrations.

    Each accepted message becomes one ``.eml`` file, complete as soon as it has its name. Its envelope stands before its
    own header, as a delivery writes it (RFC 5321, 4.4): ``Return-Path`` and one ``Delivered-To`` for each recipient.

    Args:
        data: folder for all files; the messages are in ``mail`` below it.
        port: a free one by default; the same at each start.
        detached: outlive this process.
    """

    title = "The mail catcher"

    def __init__(self, data: Path, port: int | None = None, *, detached: bool = False) -> None:
        super().__init__(data, {"SMTP": port}, detached=detached)

    @property
    def url(self) -> str:
        """``smtp://`` address, without credentials."""
        return f"smtp://{LOOPBACK}:{self.ports['SMTP']}"

    @property
    def folder(self) -> Path:
        """Where the messages are, in the order of their names."""
        return self.data / "mail"

    def messages(self) -> list[EmailMessage]:
        """Return every message that was accepted, oldest first."""
        files = sorted(self.folder.glob("*.eml"))
        return [message_from_bytes(file.read_bytes(), policy=policy.default) for file in files]

    def clear(self) -> None:
        """Forget every message."""
        for file in self.folder.glob("*.eml"):
            file.unlink()

    def answers(self) -> bool:
        """Tell whether the server greets and says good-bye."""
        try:
            with smtplib.SMTP(LOOPBACK, self.ports["SMTP"], timeout=2):
                return True
        except OSError:
            return False

    def _spawn(self) -> tuple[Process, ...]:
        options = ["--smtp-port", str(self.ports["SMTP"]), "--folder", str(self.folder)]
        command = [sys.executable, "-m", "local_stack.mailcatcher", *options]
        return (Process.spawn(command, log=self.log, detached=self.detached),)


class _Keep:
    """What the SMTP server does with a message."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    # aiosmtpd looks the method up by this name and passes all three.
    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  the name that aiosmtpd calls
        recipients = "".join(f"Delivered-To: {address}\r\n" for address in envelope.rcpt_tos)
        trace = f"Return-Path: <{envelope.mail_from}>\r\n{recipients}".encode()
        # The order of arrival is the order of names; the process id keeps two catchers on one folder apart.
        name = f"{time.time_ns():020d}-{os.getpid()}"
        unfinished = self._folder / f"{name}.part"
        unfinished.write_bytes(trace + (envelope.original_content or b""))
        unfinished.rename(unfinished.with_suffix(".eml"))
        return "250 kept"


async def _serve(port: int, folder: Path) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    keep = _Keep(folder)
    server = await loop.create_server(lambda: SMTP(keep, hostname="localhost", enable_SMTPUTF8=True), LOOPBACK, port)
    try:
        await ended.wait()
    finally:
        server.close()


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="local_stack.mailcatcher", description=__doc__)
    parser.add_argument("--smtp-port", type=int, required=True, help="port on the loopback interface")
    parser.add_argument("--folder", type=Path, required=True, help="where the messages are kept")
    options = parser.parse_args()
    asyncio.run(_serve(options.smtp_port, options.folder))


if __name__ == "__main__":
    main()
