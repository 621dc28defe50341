import json
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from email_service import cli

VARIABLES = json.dumps({"name": "Ada", "url": "https://example.org"})


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pages: list[str] = []
    monkeypatch.setattr("webbrowser.open", pages.append)
    return pages


def test_a_preview_writes_what_would_be_sent_and_opens_it(
    tmp_path: Path, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    status = cli.main(
        ["preview", "welcome", "--variables", VARIABLES, "--to", "ada@example.org", "--folder", str(folder)]
    )
    assert status == 0
    message = message_from_bytes((folder / "message.eml").read_bytes(), policy=policy.default)
    assert (message["Subject"], message["To"]) == ("Welcome, Ada", "ada@example.org")
    assert "Welcome, Ada</h1>" in (folder / "body.html").read_text()
    assert "https://example.org" in (folder / "body.txt").read_text()
    assert opened == [(folder / "body.html").as_uri()]
    assert "to ada@example.org" in capsys.readouterr().out


def test_a_preview_shows_attachments_and_takes_its_words_from_files(
    tmp_path: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    templates, files = tmp_path / "templates", tmp_path / "files"
    (templates / "hi.de").mkdir(parents=True)
    for part in ("subject.txt", "body.txt"):
        (templates / "hi.de" / part).write_text("Hallo {{ name }}")
    (templates / "hi.de" / "body.html").write_text('<img src="cid:logo">')
    files.mkdir()
    (files / "logo.png").write_bytes(b"\x89PNG")
    (tmp_path / "variables.json").write_text('{"name": "Ada"}')
    monkeypatch.setenv("EMAIL_TEMPLATES", str(templates))
    monkeypatch.setenv("EMAIL_STORAGE_URL", files.as_uri())
    command = ["preview", "hi", "--language", "de", "--variables", str(tmp_path / "variables.json"), "--no-open"]
    job = json.dumps({"attachments": [{"key": "logo.png", "inline": "logo"}]})
    assert cli.main([*command, "--job", job, "--folder", str(tmp_path / "out")]) == 0
    assert '<img src="logo.png">' in (tmp_path / "out" / "body.html").read_text()
    assert (tmp_path / "out" / "logo.png").read_bytes() == b"\x89PNG"
    assert opened == []


def test_no_file_of_a_preview_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: list[str]
) -> None:
    files, out = tmp_path / "files", tmp_path / "out"
    files.mkdir()
    names = ("body.html", "a.png", "a.png", "..")
    for number in range(len(names)):
        (files / str(number)).write_text(f"{number}")
    monkeypatch.setenv("EMAIL_STORAGE_URL", str(files))
    job = {"attachments": [{"key": str(number), "name": name} for number, name in enumerate(names)]}
    command = ["preview", "welcome", "--variables", VARIABLES, "--job", json.dumps(job), "--folder", str(out)]
    assert cli.main(command) == 0
    assert "Welcome, Ada</h1>" in (out / "body.html").read_text()
    assert sorted(path.read_text() for path in out.iterdir() if len(path.read_bytes()) == 1) == ["0", "1", "2", "3"]
    assert len(opened) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone"], "there is no template file"),
        (["welcome"], "'name' is undefined"),
        (["welcome", "--variables", "/does/not/exist"], "No such file"),
        (["welcome", "--variables", "{"], "Expecting"),
        (["welcome", "--to", "ada"], "must be one address"),
    ],
)
def test_a_preview_says_what_is_wrong(
    arguments: list[str], words: str, opened: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["preview", *arguments]) == 1
    assert words in capsys.readouterr().err
    assert opened == []
