"""``email-service preview TEMPLATE``: what would be sent, in a folder."""

import argparse
import json
import re
import sys
import tempfile
import webbrowser
from collections.abc import Sequence
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path

from email_service.adapters import open_resources
from email_service.adapters.mailer import AtDot
from email_service.handlers import send_email
from email_service.settings import EmailSettings
from jobkit.contracts.email import Refusal, SendEmail
from jobkit.errors import JobkitError

_MESSAGE, _TEXT, _PAGE = "message.eml", "body.txt", "body.html"

#: Fields of a job that have an option of their own.
_OWN = frozenset({"template", "to", "variables", "language"})


class FolderMailer:
    """A ``Mailer`` that writes the e-mail into a folder and sends nothing.

    Args:
        folder: Gets ``message.eml``, ``body.html``, ``body.txt`` and what is attached.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.written: list[Path] = []

    def send(
        self,
        message: EmailMessage,
        recipients: Sequence[str],  # noqa: ARG002  as declared in ``Mailer``
        *,
        at_dot: AtDot | None = None,  # noqa: ARG002  as declared in ``Mailer``
    ) -> tuple[Refusal, ...]:
        """Write the files."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._write(_MESSAGE, message.as_bytes())
        html, text = message.get_body(("html",)), message.get_body(("plain",))
        page = str(html.get_content()) if html is not None else ""
        taken = {_MESSAGE, _TEXT, _PAGE, "", "..", "."}
        for part in message.walk():
            name = part.get_filename()
            if name is not None and isinstance(part, EmailMessage):
                own = Path(name).name
                name = next(one for one in (own, *(f"{n}-{own}" for n in range(2, 99))) if one not in taken)
                taken.add(name)
                path = self._write(name, part.get_payload(decode=True))
                if cid := part["Content-ID"]:
                    wanted = re.escape(str(cid).strip("<>"))
                    page = re.sub(rf"cid:{wanted}(?![\w.-])", path.name, page)
        self._write(_TEXT, (str(text.get_content()) if text is not None else "").encode())
        self._write(_PAGE, page.encode())
        return ()

    def _write(self, name: str, data: object) -> Path:
        path = self._folder / name
        path.write_bytes(data if isinstance(data, bytes) else b"")
        self.written.append(path)
        return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    options = _parser().parse_args(arguments)
    folder = options.folder or Path(tempfile.mkdtemp(prefix=f"{options.template}-"))
    mailer = FolderMailer(folder)
    try:
        job = SendEmail(
            template=options.template,
            to=options.to or ("reader@example.com",),
            variables=_read(options.variables),
            language=options.language,
            **{name: value for name, value in _read(options.job).items() if name not in _OWN},
        )
        with open_resources(EmailSettings.load()) as resources:
            sent = send_email(
                job,
                "preview",
                renderer=resources.renderer,
                mailer=mailer,
                sender=resources.sender,
                now=datetime.now(UTC),
                follow_up=lambda _rest: None,
                rules=resources.rules,
                attachments=resources.attachments,
            )
    except (JobkitError, OSError, ValueError) as error:
        sys.stderr.write(f"email-service: {error}\n")
        return 1
    sys.stdout.write(f"to {', '.join(sent.accepted)}\n")
    sys.stdout.writelines(f"{path}\n" for path in mailer.written)
    if options.open:
        webbrowser.open((folder / "body.html").absolute().as_uri())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="email-service", description=__doc__)
    command = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "preview",
        help="write what would be sent to a folder, and open it",
        description="Renders a template with the settings of the service, EMAIL_TEMPLATES for one. It sends nothing.",
    )
    command.add_argument("template", help="the template's name, such as welcome")
    command.add_argument("--variables", default="{}", help="what the template shows: JSON, or the name of a file of it")
    command.add_argument("--job", default="{}", help="further fields of the job, such as cc or attachments: the same")
    command.add_argument("--to", action="append", help="a recipient; may be repeated")
    command.add_argument("--language", help="take the template's variant in this language")
    command.add_argument("--folder", type=Path, help="where to write; a new folder for temporary files by default")
    command.add_argument("--no-open", dest="open", action="store_false", help="do not open the page in a browser")
    return parser


def _read(text: str) -> dict[str, object]:
    if not text.lstrip().startswith("{"):
        text = Path(text).read_text(encoding="utf-8-sig")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a JSON object is wanted")  # noqa: TRY004  told like any other mistake in it
    return found


if __name__ == "__main__":
    sys.exit(main())
