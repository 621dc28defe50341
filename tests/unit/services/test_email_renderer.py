import subprocess
import sys
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


def test_styles_are_inlined_and_media_queries_stay(packaged: TemplateRenderer) -> None:
    html = packaged.render("welcome", WELCOME).html
    assert '<h1 style="margin: 0 0 16px;font-size: 22px;">Welcome, Ada</h1>' in html
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert "@media (max-width: 600px)" in style
    assert "h1" not in style


def test_rules_that_no_element_can_hold_survive_the_inlining(write: Write) -> None:
    rules = (
        "p { color: red }",
        "a:hover { color: blue }",
        "p::first-letter { color: lime }",
        "@media (prefers-color-scheme: dark) { p { color: white } }",
        "@font-face { font-family: x; src: url(x) }",
    )
    html = write(html=f"<html><head><style>{' '.join(rules)}</style></head><body><p>h</p></body></html>").render(
        "mine", {}
    )
    assert '<p style="color: red;">h</p>' in html.html
    for kept in ("a:hover", "p::first-letter", "prefers-color-scheme: dark", "@font-face"):
        assert kept in html.html
    assert "p { color: red" not in html.html


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


def _rendered(write: Write, html: str) -> str:
    return write(html=html).render("mine", {}).html


@pytest.mark.parametrize("media", ["print", "only screen and (max-width: 480px)", "(prefers-color-scheme: dark)"])
def test_a_style_for_other_media_is_not_inlined(write: Write, media: str) -> None:
    style = f'<style type="text/css" media="{media}">p{{color:red}}</style>'
    assert f"{style}</head><body><p>h</p>" in _rendered(write, f"<head>{style}</head><body><p>h</p></body>")


@pytest.mark.parametrize("media", ["media=all", "media='screen'", 'media="print, screen"', 'media=""', "data-x=media"])
def test_a_style_for_the_screen_is_inlined(write: Write, media: str) -> None:
    html = _rendered(write, f"<head><style {media}>p{{color:red}}</style></head><body><p>h</p></body>")
    assert '<p style="color: red;">' in html
    assert "data-css-inline" not in html


@pytest.mark.parametrize(
    "doctype",
    [
        "<!DOCTYPE html>",
        "<!doctype html>",
        '<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"\n "http://www.w3.org/TR/xhtml1/DTD/a.dtd">',
        '<!-- letter -->\n<!DOCTYPE html PUBLIC "-//W3C//DTD HTML 4.01 Transitional//EN">',
    ],
)
def test_the_doctype_stays_as_it_is(write: Write, doctype: str) -> None:
    html = _rendered(write, f"{doctype}\n<html><body><p>a</p></body></html>")
    assert html.replace("\n", "").startswith(doctype.replace("\n", "") + "<html>")
    assert html.lower().count("<!doctype") == 1


def test_a_page_without_a_doctype_gets_none(write: Write) -> None:
    assert "doctype" not in _rendered(write, "<p>a</p>").lower()


def test_what_outlook_alone_leaves_out_stays_hidden_from_it(write: Write) -> None:
    parts = (
        "<!--[if mso]><b>old</b><![endif]-->",
        "<![if !mso]><b>new</b><![endif]>",
        "<!--[if !mso]><!--><i>new</i><!--<![endif]-->",
    )
    html = _rendered(write, f"<body>{''.join(parts)}</body>")
    assert all(part in html for part in parts)


def test_a_link_to_a_stylesheet_stays(write: Write) -> None:
    link = '<link rel="stylesheet" href="https://fonts.example/css?family=Mono">'
    assert link in _rendered(write, f"<head>{link}</head><body><p>a</p></body>")


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


# What nobody should read in a letter ------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["subject", "html", "text"])
@pytest.mark.parametrize(
    "source",
    [
        "Dear {{ name }}",
        "{{ user.company }}",
        "{{ [first, name] | join(' ') }}",
        "{{ first ~ ' ' ~ name }}",
        "{{ name | upper }}",
        "{{ name | title }}",
        "{{ name | trim }}",
        "{{ name | string }}",
        "{{ '%s' | format(name) }}",
        "{{ '{}'.format(name) }}",
        "{{ [name] }}",
        "{{ user }}",
        "{{ rows | join(', ') }}",
        "{{ none }}",
        "{{ user.get('gone') }}",
        "{{ [user.get('gone')] | join }}",
        "{{ name | replace('N', 'n') }}",
        "{{ name | int }}",
        "{{ name | float }}",
        "{{ '%.2f' | format(name | float(0)) }}",
        "{% set who = name %}{{ who }}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(name) }}",
    ],
)
def test_a_null_is_never_printed(write: Write, part: str, source: str) -> None:
    variables = {"name": None, "first": "Ada", "user": {"company": None}, "rows": ["a", None]}
    with pytest.raises(TemplateFailed):
        write(**{part: source}).render("mine", variables)  # type: ignore[arg-type]  # invariant


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ name | default('friend') }}", "friend"),
        ("{{ name | d('friend') }}", "friend"),
        ("{{ gone | default('friend') }}", "friend"),
        ("{{ name or 'friend' }}", "friend"),
        ("{{ 'a' if name else 'b' }}", "b"),
        ("{% if name is none %}b{% endif %}", "b"),
        ("{% if name == none %}b{% endif %}", "b"),
        ("{% if name is defined %}b{% endif %}", "b"),
        ("{% if not name %}b{% endif %}", "b"),
        ("{{ {'a': name} | tojson }}", '{"a": null}'),
        ("{{ zero | default('x') }} {{ empty | default('x') }}|", "0 |"),
        ("{{ empty | default('x', true) }}", "x"),
        ("{{ [name, 'a'] | select | join }}", "a"),
        ("{{ yes }}", "True"),
    ],
)
def test_a_null_can_be_asked_for_and_replaced(write: Write, source: str, text: str) -> None:
    variables = {"name": None, "zero": 0, "empty": "", "yes": True}
    assert write(text=source).render("mine", variables).text == text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ order.items | join }}", "ab"),
        ("{% for item in order.items %}{{ item }}{% endfor %}", "ab"),
        ("{{ order['items'] | join }}", "ab"),
        ("{{ order.values }} {{ order.copy }} {{ order.count }}", "1 Hello 3"),
        ("{% for key, value in plain.items() %}{{ key }}={{ value }}{% endfor %}", "a=1"),
        ("{{ orders | map(attribute='items') | first | join }}", "ab"),
        ("{{ name.upper() }} {{ plain.get('a') }} {{ plain.get('b', 'c') }}", "ADA 1 c"),
        ("{% for i in [1, 2] %}{{ loop.cycle('x', 'y') }}{% endfor %}", "xy"),
        ("{{ plain.values() | join }} {{ plain.items() | length }} {{ plain.keys() | list }}", "1 1 ['a']"),
        ("{{ order.items | map('upper') | join }} {{ order.items | select | first }}", "AB a"),
        ("{% for pair in order.items | batch(2) %}{{ pair | join('+') }}{% endfor %}", "a+b"),
    ],
)
def test_a_key_of_a_mapping_comes_before_its_method(write: Write, source: str, text: str) -> None:
    order = {"items": ["a", "b"], "values": 1, "copy": "Hello", "count": 3}
    variables = {"order": order, "orders": [order], "plain": {"a": 1}, "name": "Ada"}
    assert write(text=source).render("mine", variables).text == text  # type: ignore[arg-type]  # invariant


@pytest.mark.parametrize(
    "source",
    [
        "{{ rows.count }}",
        "{{ name.title }}",
        "{{ plain.items }}",
        "{{ plain['items'] }}",
        "{{ plain.items() }}",
        "{{ 'x' ~ rows.count }}",
        "{{ [rows.count] | join }}",
        "{% if rows.count %}x{% endif %}",
        "{% if rows.count == 2 %}x{% endif %}",
        "{{ rows.count in [1, 2] }}",
        "{{ rows | map('upper') }}",
        "{{ rows | map('upper') ~ '!' }}",
        "{{ rows | select | upper }}",
        "{{ [rows | batch(2)] }}",
        "{{ [rows | unique] | join }}",
        "{{ plain.values() ~ '!' }}",
        "{{ [plain.items()] }}",
        "{{ plain | items | string }}",
        "{{ range }}",
        "{{ range(3) }}",
        "{% for i in rows %}{{ loop }}{% endfor %}",
        "{% macro m() %}x{% endmacro %}{{ m }}",
    ],
)
def test_what_reads_like_code_is_never_printed(write: Write, source: str) -> None:
    with pytest.raises(TemplateFailed):
        write(text=source).render("mine", {"rows": ["a"], "name": "Ada", "plain": {"a": 1}})


def test_a_byte_order_mark_is_no_part_of_the_letter(write: Write) -> None:
    mark = "\ufeff"
    renderer = write(
        subject=f"{mark}s", html=f"{mark}<p>{{% include 'part.html' %}}</p>", text=f"{mark}t", part=f"{mark}p"
    )
    rendered = renderer.render("mine", {})
    assert mark not in rendered.subject + rendered.html + rendered.text


def test_a_template_in_another_encoding_is_named(write: Write, tmp_path: Path) -> None:
    renderer = write()
    (tmp_path / "mine" / "body.txt").write_bytes("Grüße".encode("latin-1"))
    with pytest.raises(TemplateFailed, match=r"mine/body\.txt.*not UTF-8"):
        renderer.render("mine", {})


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Hello{% if name %} {{ name }}{% endif %}\nNext", "Hello Ada\nNext"),
        ("{% if name %}{{ name }}{% endif %}\nNext", "Ada\nNext"),
        ("{% if gone is defined %}x{% endif %}y{# remark #}\nNext", "y\nNext"),
        ("a {% for i in [1, 2] %}{{ i }}{% endfor %}\r\nNext", "a 12\nNext"),
        ("{% if name %}\n{{ name }}\n{% endif %}\nNext", "Ada\nNext"),
        ("{% for i in [1, 2] %}\n- {{ i }}\n{% endfor %}\nNext", "- 1\n- 2\nNext"),
        ("{# a remark #}\nNext", "Next"),
        ("x{% if name %}y{% endif -%}\nNext", "xyNext"),
        ("{% if name\n   and name %}\nx\n{% endif %}\nNext", "x\nNext"),
        ("{% raw %}{% endif %}\n{% endraw %}\nNext", "{% endif %}\n\nNext"),
        ("{% include 'sign.html' %}\nNext", "Regards\nNext"),
        ("Items:\n{%- for i in [1, 2] %}\n- {{ i }}\n{%- endfor %}\nNext", "Items:\n- 1\n- 2\nNext"),
        ("{% if name %}\nHi\n{%- endif %}\nNext", "Hi\nNext"),
        ("{%- if name %}\nHi\n{% endif %}\nNext", "Hi\nNext"),
        ("{% macro m() %}x{% endmacro %}\n{{ m() }}\nNext", "x\nNext"),
        ("{% macro m() %}\nx{% endmacro %}\n{{ m() }}\nNext", "x\nNext"),
        ("{% set who %}x{% endset %}\n{{ who }}\nNext", "x\nNext"),
        ("a{% set who = name %}\nNext", "a\nNext"),
        ("a {% macro m() %}x{% endmacro %}\nNext", "a \nNext"),
    ],
)
def test_lines_run_together_only_where_a_tag_stands_alone(write: Write, source: str, text: str) -> None:
    assert write(text=source, sign="Regards\n").render("mine", {"name": "Ada"}).text == text


EVIL = {"name": "<a href=https://evil.example>Tom & Co</a>"}


@pytest.mark.parametrize("extension", ["html", "htm", "j2", "html.j2", "jinja", "txt", "svg", "inc", "xml", ""])
@pytest.mark.parametrize(
    ("html", "partial"),
    [
        ("{% include NAME %}", "{{ name }}"),
        ("{% from NAME import m %}{{ m(name) }}", "{% macro m(x) %}<b>{{ x }}</b>{% endmacro %}"),
        ("{% import NAME as p %}{{ p.m(name) }}", "{% macro m(x) %}<b>{{ x }}</b>{% endmacro %}"),
        ("{% extends NAME %}{% block c %}{{ name }}{% endblock %}", "<b>{{ name }}</b>{% block c %}{% endblock %}"),
    ],
)
def test_html_escapes_whatever_its_partials_are_called(
    write: Write, tmp_path: Path, extension: str, html: str, partial: str
) -> None:
    name = f"part.{extension}".rstrip(".")
    renderer = write(html=html.replace("NAME", f"'{name}'"))
    (tmp_path / name).write_text(partial)
    rendered = renderer.render("mine", EVIL).html
    assert "<a " not in rendered
    assert "Tom &amp; Co" in rendered


def test_text_escapes_nothing_whatever_its_partials_are_called(write: Write) -> None:
    renderer = write(subject="{% include 'part.html' %}", text="{% include 'part.html' %}", part="{{ name }}")
    rendered = renderer.render("mine", {"name": "Tom & Co"})
    assert (rendered.subject, rendered.text) == ("Tom & Co", "Tom & Co")


# Deep pages -------------------------------------------------------------------------------------------------------

#: Pages that overflow the inliner's stack if they reach it, and such as try to hide their depth from a simple count.
DEEP = [
    "<blockquote>",
    "<table><tr><td>",
    "<b>",
    "<ada@example.org>",
    "<DIV>",
    "<div\n class='>'>",
    "<div><!--</div>-->",
    "<div><?</div>",
    "<div><!</div>",
    "<div></ </div>",
    "<div><style></div></style>",
    "<div><title></style></div></title>",
    "<div><textarea></title></div></textarea>",
    '<div a="</div>">',
    "<div a='</div>'>",
    '<div =">',
    "<b><div></b>",
    "<div><table></div>",
    "<div><select></div></select>",
    "<svg><g>",
    "<svg><g></g><p>",
    "<svg><g></svg><div>",
    "<script>x</script><div>",
    "<script><!--<script></script>--></script><div>",
    "<div><script></div></script>",
    "<div><script><</div></script>",
    "<div><noscript></div></noscript>",
    "<div><xmp></div></xmp>",
    "<svg><style><b>",
    "<svg><td>",
    "<math><mi>",
    "<ul><li>",
    "<div/>",
    "<!--><div>",
    "<!---><div>",
    "<!-- --!><div>",
    "<template><div>",
    "<object>",
]

_RENDER = """
import sys, threading
from pathlib import Path
from email_service.adapters.renderer import TemplateRenderer
from email_service.errors import TemplateFailed
renderer = TemplateRenderer.from_folder(Path(sys.argv[1]))
def run():
    for line in Path(sys.argv[2]).read_bytes().decode().split(chr(30)):
        try:
            renderer.render("mine", {"quoted": line * 3_000})
            print("rendered")
        except TemplateFailed:
            print("refused")
thread = threading.Thread(target=run); thread.start(); thread.join()
"""


def test_a_deep_page_is_refused_before_it_can_overflow_the_stack(write: Write, tmp_path: Path) -> None:
    write(html="<html><head><style>p{color:red}</style></head><body>{{ quoted | safe }}</body></html>")
    (tmp_path / "lines").write_text("\x1e".join(DEEP))
    command = [sys.executable, "-c", _RENDER, str(tmp_path), str(tmp_path / "lines")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = dict(zip(DEEP, done.stdout.split(), strict=False))
    assert done.returncode == 0, f"after {len(said)} pages: {done.stderr[-500:]}"
    assert [page for page in DEEP if said[page] != "refused"] == []


@pytest.mark.parametrize(
    "page",
    [
        "<p>one paragraph " * 2000,
        "<ul>" + "<li>item" * 2000 + "</ul>",
        "<table>" + "<tr><td>a<td>b" * 2000 + "</table>",
        "<table>" + "<tr><td>a</td><td><b>b</b><br></td></tr>" * 2000 + "</table>",
        "<dl>" + "<dt>a<dd>b" * 2000 + "</dl>",
        "<div>" * 200 + "</div>" * 200,
        "<!--[if mso]><table><tr><td><![endif]--><div>x</div><!--[if mso]></td></tr></table><![endif]-->" * 1000,
        '<a href="x?a=1&b=2"><img src=x alt=">"></a>' * 2000,
        "<br>" * 5000,
        "<a " * 100_000,  # no tag ends: a page that is easily read in quadratic time
        "<br><style " * 50_000,
        "<!-- " * 100_000,
        '<a b="' * 50_001,
        "<!--[if mso]><noscript><xml><o:x></o:x></xml></noscript><![endif]--><div><p>x</p></div>" * 1000,
        '<script type="application/ld+json">{"@type": "EmailMessage"}</script>' + "<p>x</p>" * 1000,
        '<p><svg viewBox="0 0 1 1"><g><path d="M0"/><circle r=1></circle></g></svg></p>' * 1000,
        "<style><!-- p > a { color: red } --></style>" + "<p>x</p>" * 1000,
        "<p>a < b and c > d</p>" * 2000,
    ],
)
def test_a_long_page_that_is_not_deep_is_rendered(write: Write, page: str) -> None:
    assert write(html="{{ page | safe }}").render("mine", {"page": page}).html


# Languages --------------------------------------------------------------------------------------------------------


def test_the_variant_of_a_language_is_taken_where_there_is_one(write: Write, tmp_path: Path) -> None:
    renderer = write()
    for name in ("mine.de", "mine.pt-BR"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "subject.txt").write_text(name)
    wanted = [None, "de", "de-AT", "de-AT-1996", "pt", "pt-BR", "pt-br", "fr"]
    assert [renderer.variant("mine", one) for one in wanted] == [
        "mine",
        "mine.de",
        "mine.de",
        "mine.de",
        "mine",
        "mine.pt-BR",
        "mine.pt-BR",
        "mine",
    ]
