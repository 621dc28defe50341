"""The pages of the documentation, and the fenced blocks of code in them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
SERVICE_PAGES = sorted(ROOT.glob("services/*/README.md"))


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the path on its first line if there is one."""

    language: str
    text: str
    line: int

    @property
    def path(self) -> str:
        found = re.match(r"# ([\w./-]*[/.][\w./-]+)\n", self.text)
        return found[1] if found else ""

    @property
    def content(self) -> str:
        return self.text.partition("\n")[2]


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in some languages, in their order."""
    text = page.read_text()
    fences = re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(f[1], f[2], text[: f.start()].count("\n") + 2) for f in fences if f[1] in languages]


def name_of(page: Path) -> str:
    """A page as a person names it."""
    return str(page.relative_to(ROOT))
