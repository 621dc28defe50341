"""What a person sees: the jobs while they run, then what came out. Plain lines where the output is no terminal."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from board import Board, Entry, Letter
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from services import NAMES

#: What the states are called and how they look.
_STATES = {
    "queued": ("in its queue", "dim"),
    "running": ("running", "bold yellow"),
    "waiting": ("runs again", "yellow"),
    "done": ("done", "green"),
    "dead": ("dead letter", "red"),
}

#: Columns in characters; in a terminal of 80, the status gets the 26 that the training's note is long.
_WIDTHS = {"job": 38, "done": 6, "time": 6}
_SERVICE = {"service": 9}  #: The first column where there is room to spare.
_WIDE = 92


class Screen:
    """Shows the demo on a console.

    Args:
        console: Where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._told: dict[str, str] = {}
        self._live: Live | None = None

    def say(self, text: str, style: str = "") -> None:
        """One line, or a paragraph."""
        self._console.print(Text(text, style), soft_wrap=not self._console.is_terminal)

    def step(self, text: str) -> None:
        """What happens now, or what is so, on the way to the jobs."""
        self.say(f"  {text}", "dim")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraw in place within the block, on a terminal; the last picture stays."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, auto_refresh=False, vertical_overflow="visible") as self._live:
            yield
        self._live = None

    def show(self, board: Board, programs: Mapping[str, bool], depths: Mapping[str, int]) -> None:
        """Bring the picture up to date."""
        if self._live is not None:
            self._live.update(_picture(board, programs, depths, self._console.width), refresh=True)
            return
        for entry in board.entries:
            known = self._told.get(entry.receipt.job_id)
            if known != entry.state and not (known is None and entry.state == "queued"):
                self._told[entry.receipt.job_id] = entry.state
                at = time.monotonic() - board.started_at
                self.say(f"  {at:5.1f} s  {entry.service:10} {_STATES[entry.state][0]:12} {entry.title}{_note(entry)}")

    def part(self, title: str, lines: Sequence[tuple[bool, str]], place: str) -> None:
        """One part of the report: its checks, and where to look."""
        rows = [(Text("✓", "green") if holds else Text("✗", "bold red"), Text(text)) for holds, text in lines]
        if place:
            rows.append((Text("→", "cyan"), Text(place, "cyan")))
        self.say("")
        self.say(title, "bold")
        self._rows(rows)

    def letter(self, letter: Letter) -> None:
        """A dead letter, as it tells its own story."""
        failure = letter.failure
        self._rows(
            [
                (Text("     job", "dim"), Text(f"{letter.actor} {letter.job_id}")),
                (Text("  reason", "dim"), Text(failure.reason)),
                (Text(" failure", "dim"), Text(f"{failure.type}: {failure.message}")),
            ]
        )

    def hint(self, text: str, command: str) -> None:
        """What a person may do next."""
        self._console.print(
            Text.assemble(f"    {text}: ", (command, "cyan")), soft_wrap=True
        )  # to be copied in one piece

    def _rows(self, rows: Sequence[tuple[Text, Text]]) -> None:
        if not self._console.is_terminal:
            for mark, text in rows:
                self.say(f"  {mark} {text}")
            return
        table = Table.grid(padding=(0, 1))
        for mark, text in rows:
            table.add_row(mark, text)
        self._console.print(Padding(table, (0, 0, 0, 2)))

    def tail(self, title: str, lines: Sequence[str]) -> None:
        """The end of a log."""
        self.say("")
        self.say(title, "bold")
        for line in lines:
            self.say(f"  {line}")

    def verdict(self, text: str, *, good: bool) -> None:
        """The last line."""
        self.say("")
        self.say(text, "bold green" if good else "bold red")


def _picture(board: Board, programs: Mapping[str, bool], depths: Mapping[str, int], width: int) -> RenderableType:
    jobs = Table(box=None, padding=(0, 1, 0, 0), header_style="dim", expand=False)
    widths = {**_SERVICE, **_WIDTHS} if width >= _WIDE else _WIDTHS
    widths = {**widths, "status": max(12, width - sum(widths.values()) - len(widths) - 1)}
    for name, fixed in widths.items():
        jobs.add_column(name, width=fixed, no_wrap=True, justify="right" if name == "time" else "left")
    for entry in sorted(board.entries, key=lambda entry: NAMES.index(entry.service)):
        cells = (entry.service, entry.title, _bar(entry), f"{entry.seconds:.1f} s", _status(entry))
        jobs.add_row(*cells[-len(widths) :])
    below = Table.grid(padding=(0, 2, 0, 0))
    below.add_row(Text("programs", "dim"), Text("  ").join(_program(name, up) for name, up in programs.items()))
    waiting = [_queue(queue, count) for queue, count in depths.items() if count]
    below.add_row(Text("waiting", "dim"), Text("  ").join(waiting) if waiting else Text("nothing", "dim"))
    return Group("", jobs, "", below)


def _bar(entry: Entry) -> RenderableType:
    if entry.record is None or entry.state == "dead":
        return ""
    return ProgressBar(
        total=100,
        completed=entry.record.percent,
        width=_WIDTHS["done"],
        complete_style="yellow",
        finished_style="green",
    )


def _status(entry: Entry) -> Text:
    name, style = _STATES[entry.state]
    if entry.record is None:
        return Text(name, style)
    if entry.state == "running":
        return Text(f"{entry.record.step} {entry.record.note}".strip() or name, style)
    return Text.assemble((name, style), (f"  {entry.record.note}", "dim"))


def _program(name: str, up: bool) -> Text:
    return Text(f"{'●' if up else '○'} {name}", "green" if up else "bold red")


def _queue(queue: str, count: int) -> Text:
    return Text(f"{queue} {count}", "red" if queue.endswith(".dlq") else "yellow")


def _note(entry: Entry) -> str:
    return f"  ({entry.seconds:.1f} s)" if entry.ended else ""
