"""How deep the elements of an HTML page are nested, bounded in linear time.

The inliner walks the tree by recursion: some thousand levels overflow the stack, and the process dies. So this is
looked at before it sees the page. The figure may be too high for malformed pages, never too low.
"""

import re
from typing import Final

from email_service.errors import TemplateFailed

#: Levels. Newsletters have some thirty, long quoted conversations a hundred; the smallest stack holds a thousand.
DEEPEST: Final = 500

_ATTRIBUTES: Final = r"""(?:[\s/]++|[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>"'][^\s>]*+)?+)?+)*+"""
#: What is no tag, an element whose content is text, a plain drawing, or a tag (HTML standard, 13.2.5).
_MARKUP: Final = re.compile(
    r"<!--(?:>|->|.*?(?:--!?>|\Z))|<[!?][^>]*+(?:>|\Z)|</[^a-z>][^>]*+(?:>|\Z)"
    rf"|<(?P<text>style|title|textarea)(?=[\s/>]){_ATTRIBUTES}>.*?(?:</(?P=text)(?=[\s/>])|\Z)"
    rf"|<script(?=[\s/>]){_ATTRIBUTES}>[^<]*+</script\s*+>"
    rf"|(?P<drawing><svg(?=[\s/>]){_ATTRIBUTES}>"
    # Not possessive: Python 3.11.2 (Debian 12) finds no end of a group that is repeated so and has such groups inside.
    r"(?:[^<]++|</?(?:path|g|circle|ellipse|rect|line|polyline|polygon|defs|use|stop|lineargradient|radialgradient|mask"
    rf"|clippath)(?=[\s/>]){_ATTRIBUTES}>)*</svg\s*+>)"
    rf"|<(?P<end>/?)(?P<name>[a-z][^\s/>]*+){_ATTRIBUTES}(?:>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
#: From one of these on, what a parser does with tags is another question: each that opens counts, and none that closes.
_OTHER_RULES: Final = frozenset(
    {
        *("svg", "math", "script", "xmp", "iframe", "noembed", "noframes", "plaintext", "noscript", "template"),
        *("frameset", "select"),
    }
)
_OPENED: Final = re.compile(r"<[a-z]", re.IGNORECASE)

_VOID: Final = frozenset(
    {
        *("area", "base", "br", "col", "embed", "hr", "image", "img", "input"),
        *("link", "meta", "param", "source", "track", "wbr", "keygen", "basefont", "bgsound", "frame"),
    }
)
#: Elements whose end tag may be left out: the next one of the group, or the end of what is around them, closes them.
_OPTIONAL: Final = {
    **dict.fromkeys(("li",), frozenset({"li"})),
    **dict.fromkeys(("dd", "dt"), frozenset({"dd", "dt"})),
    **dict.fromkeys(("td", "th"), frozenset({"td", "th"})),
    "tr": frozenset({"td", "th", "tr"}),
    **dict.fromkeys(("tbody", "thead", "tfoot"), frozenset({"td", "th", "tr", "tbody", "thead", "tfoot"})),
    "p": frozenset({"p"}),
}
_LEFT_OUT: Final = frozenset(_OPTIONAL)


def refuse_deep_nesting(html: str, name: str) -> None:
    """Raise ``TemplateFailed`` if elements of the page, which the template ``name`` made, are nested too deep."""
    if _depth(html) > DEEPEST:
        raise TemplateFailed(f"{name}: its elements are nested more than {DEEPEST} deep; close them, or quote less")


def _depth(html: str) -> int:
    stack: list[str] = []
    deepest = 0
    for tag in _MARKUP.finditer(html):
        if tag["drawing"]:
            deepest = max(deepest, len(stack) + _opened(tag["drawing"]))
        name = (tag["name"] or "").lower()
        if not name or name in _VOID:
            continue
        if name in _OTHER_RULES:
            return max(deepest, len(stack) + _opened(html[tag.start() :]))
        if tag["end"]:
            _close(stack, name)
            continue
        while stack and stack[-1] in _OPTIONAL.get(name, ()):
            stack.pop()
        stack.append(name)
        deepest = max(deepest, len(stack))
    return deepest


def _opened(html: str) -> int:
    return sum(1 for _ in _OPENED.finditer(html))


def _close(stack: list[str], name: str) -> None:
    # Only what surely ends here: a parser keeps others open, or opens them again.
    at = len(stack) - 1
    while at >= 0 and stack[at] != name and stack[at] in _LEFT_OUT:
        at -= 1
    if at >= 0 and stack[at] == name:
        del stack[at:]
