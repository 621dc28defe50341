"""The documentation's code passes what `make check` asks of the rest: format, lint and strict types."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from documentation import PAGES, ROOT, SERVICE_PAGES, Block, blocks, name_of

#: Of a page's code: it is no file, and imports what it needs where the text comes to it.
NOT_OF_PAGES = "D100,E402,INP001,S101,T201"


def code_of(page: Path) -> list[Block]:
    """The Python of a page that is not a file of its own: the README's fifth service is checked as a service."""
    return [block for block in blocks(page, "python") if not block.path]


def run(*command: str) -> list[str]:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each page as a module, with its code on the lines where the page has it."""
    folder = tmp_path_factory.mktemp("pages")
    for page in [*PAGES, *SERVICE_PAGES]:
        lines: list[str] = []
        for block in code_of(page):
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
        if lines:
            name = re.sub(r"\W", "_", name_of(page).removesuffix(".md"))
            (folder / f"{name}.py").write_text("\n".join(lines) + "\n")
    return folder


def test_the_documentations_code_is_formatted(tmp_path: Path) -> None:
    for page in [*PAGES, *SERVICE_PAGES]:
        for block in code_of(page):
            (tmp_path / f"{name_of(page).replace('/', '_')}-line-{block.line}.py").write_text(block.text)
    assert run("ruff", "format", "--diff", "--no-cache", "--config", "pyproject.toml", str(tmp_path)) == []


def test_the_documentations_code_passes_the_linter(modules: Path) -> None:
    options = ["--no-cache", "--quiet", "--output-format", "concise", "--config", "pyproject.toml"]
    found = run("ruff", "check", *options, "--ignore", NOT_OF_PAGES, str(modules))
    assert [line for line in found if not _is_a_test(line)] == []


def _is_a_test(finding: str) -> bool:
    """Whether the linter misses the docstring of a test, whose name is its description."""
    found = re.match(r"(.+?):(\d+):\d+: D103 ", finding)
    return found is not None and Path(found[1]).read_text().splitlines()[int(found[2]) - 1].startswith("def test_")


def test_the_documentations_code_has_strict_types(modules: Path) -> None:
    found = run("mypy", "--config-file", "pyproject.toml", *(str(file) for file in sorted(modules.glob("*.py"))))
    assert found == []
