"""Styles moved into the elements, where every mail reader heeds them, and nothing else changed."""

import re
from typing import Final

from css_inline import CSSInliner

_START: Final = r"\A\s*+(?:<!--.*?-->\s*+)*+"
_DOCTYPE: Final = re.compile(rf"({_START})(<!doctype[^>]*>)", re.IGNORECASE | re.DOTALL)
#: The start of a style element for some media. Its length is bounded, so that no page makes the search long.
_STYLE: Final = re.compile(
    r"""<style(?=[\s/])[^>]{0,500}?\smedia\s*=\s*(?:"(?P<a>[^"]*)"|'(?P<b>[^']*)'|(?P<c>[^\s>"']+))""", re.IGNORECASE
)
_EVERYWHERE: Final = frozenset({"", "all", "screen"})

#: What the inliner leaves as it is.
_IGNORED: Final = ' data-css-inline="ignore"'

#: Conditions of Outlook that other readers do not see as comments: ``<![if !mso]>``. A parser makes comments of them.
_CONDITION: Final = re.compile(r"<!--(\[if [^]>]{0,200}\]|\[endif\])-->", re.IGNORECASE)


class Inliner:
    """Inlines the styles of a page.

    A stylesheet named by a template would be read from this machine or its network, so the link stays as it is. So do
    the rules that cannot be inlined: for ``:hover``, for dark mode, for narrow screens, for paper.
    """

    def __init__(self) -> None:
        self._inliner = CSSInliner(
            load_remote_stylesheets=False,
            keep_at_rules=True,
            keep_link_tags=True,  # such as fonts, which some readers load
            keep_style_tags=True,
            remove_inlined_selectors=True,
        )

    def inline(self, html: str) -> str:
        """Return the page with its styles in the elements.

        Raises:
            ValueError: a style cannot be read.
        """
        inlined = self._inliner.inline(_STYLE.sub(_ignored, html)).replace(_IGNORED, "")
        if "<![if" in html.lower():
            inlined = _CONDITION.sub(r"<!\1>", inlined)
        if doctype := _DOCTYPE.match(html):  # the parser keeps its name alone, but readers go by all of it
            inlined = _DOCTYPE.sub(lambda found: found[1] + doctype[2], inlined, count=1)
        return inlined


def _ignored(style: re.Match[str]) -> str:
    media = style["a"] or style["b"] or style["c"] or ""
    if _EVERYWHERE & {one.strip().lower() for one in media.split(",")}:
        return style[0]
    return style[0] + _IGNORED
