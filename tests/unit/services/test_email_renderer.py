from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from email_service.adapters.renderer import TemplateRenderer
from email_service.errors import TemplateFailed, TemplateMissing, TemplatesUnreadable

WELCOME = {"name": "Ada", "url": "https://example.com/in"}
Write = Callable[..., TemplateRenderer]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write the template ``mine`` and return a renderer for its folder."""

    def write(*, subject: str = "s", html: str = "<p>h</p>", text: str = "t", **others: str) -> TemplateRenderer:
        folder = tmp_path / "mine"
        folder.mkdir()
        for name, body in {"subject.txt": subject, "body.html": html, "body.txt": text}.items():
            (folder / name).write_text(body, encoding="utf-8")
        for name, body in others.items():
            (tmp_path / f"{name}.html").write_text(body, encoding="utf-8")
        return TemplateRenderer.from_folder(tmp_path)

    return write


@pytest.fixture(scope="module")
def packaged() -> TemplateRenderer:
    return TemplateRenderer.from_folder(None)


def test_the_package_brings_a_welcome_and_a_report(packaged: TemplateRenderer) -> None:
    assert packaged.names() == ["report", "welcome"]


def test_styles_are_inlined_and_only_media_queries_stay(packaged: TemplateRenderer) -> None:
    html = packaged.render("welcome", WELCOME).html
    assert '<h1 style="margin: 0 0 16px;font-size: 22px;">Welcome, Ada</h1>' in html
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert style.strip().startswith("@media")
    assert "h1" not in style


def test_a_report_shows_every_row_in_both_bodies(packaged: TemplateRenderer) -> None:
    rendered = packaged.render(
        "report", {"title": "Sales", "summary": "Up.", "columns": ["Month", "Sum"], "rows": [["May", 1], ["June", 2.5]]}
    )
    assert rendered.subject == "Sales"
    assert rendered.html.count("<tr>") == 3
    assert ">2.5</td>" in rendered.html
    assert "Month | Sum\nMay | 1\nJune | 2.5" in rendered.text


def test_html_escapes_what_text_shows_as_it_is(packaged: TemplateRenderer) -> None:
    rendered = packaged.render("welcome", WELCOME | {"name": "<b>Tom & Co</b>"})
    assert "Welcome, &lt;b&gt;Tom &amp; Co&lt;/b&gt;" in rendered.html
    assert rendered.subject == "Welcome, <b>Tom & Co</b>"
    assert "Welcome, <b>Tom & Co</b>" in rendered.text


def test_a_template_in_a_variable_stays_text(packaged: TemplateRenderer) -> None:
    assert packaged.render("welcome", WELCOME | {"name": "{{ 7 * 7 }}"}).subject == "Welcome, {{ 7 * 7 }}"


def test_a_missing_template_names_those_that_exist(packaged: TemplateRenderer) -> None:
    with pytest.raises(TemplateMissing, match=r"'goodbye/subject\.txt'; templates: report, welcome"):
        packaged.render("goodbye", {})


def test_a_missing_layout_is_named(write: Write) -> None:
    with pytest.raises(TemplateMissing, match=r"^mine/body\.html: .*'frame\.html'"):
        write(html='{% extends "frame.html" %}').render("mine", {})


@pytest.mark.parametrize("part", ["subject", "html", "text"])
def test_a_variable_that_is_not_given_is_permanent_in_every_part(write: Write, part: str) -> None:
    with pytest.raises(TemplateFailed, match="'nickname' is undefined"):
        write(**{part: "Dear {{ nickname }}"}).render("mine", {})


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\n{% if %}", r"^mine/body\.txt, line 2: "),
        ("{{ ''.__class__.__mro__ }}", "'__class__' of 'str' object is unsafe"),
        ("{{ rows.append(1) }}", "unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ 'a' + 1 }}", "concatenate"),
        ("{{ rows | nonsense }}", "nonsense"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ half }}", "surrogates not allowed"),
    ],
)
def test_a_mistake_in_a_template_is_permanent_and_named(write: Write, source: str, message: str) -> None:
    with pytest.raises(TemplateFailed, match=message):
        write(text=source).render("mine", {"rows": [], "half": "\ud800"})


def test_a_template_outside_the_folder_is_not_found(write: Write, tmp_path: Path) -> None:
    (tmp_path.parent / "outside.html").write_text("secret")
    with pytest.raises(TemplateMissing):
        write(html='{% include "../outside.html" %}').render("mine", {})


def test_a_stylesheet_of_this_machine_is_not_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "local.css").write_text("p { color: red }")
    html = f'<html><head><link rel="stylesheet" href="{tmp_path / "local.css"}"></head><body><p>h</p></body></html>'
    assert "red" not in write(html=html).render("mine", {}).html


def test_a_folder_that_cannot_be_read_is_tried_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = write()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("jinja2.loaders.open", refuse, raising=False)
    with pytest.raises(TemplatesUnreadable, match="Permission denied"):
        renderer.render("mine", {})


def test_threads_share_a_renderer(packaged: TemplateRenderer) -> None:
    names = [f"Ada {n}" for n in range(40)]
    with ThreadPoolExecutor(8) as pool:
        rendered = list(pool.map(lambda name: packaged.render("welcome", WELCOME | {"name": name}), names))
    assert [r.subject for r in rendered] == [f"Welcome, {name}" for name in names]
    assert all(f"Welcome, {name}</h1>" in r.html for name, r in zip(names, rendered, strict=True))
