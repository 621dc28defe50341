"""Template sources: whose lines run together with the next one, and whose do not."""

import re
from typing import Final

from jinja2.ext import Extension

_RAW: Final = r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}"
_TAG: Final = re.compile(rf"({_RAW}|\{{#.*?#\}}|\{{%.*?%\}}|\{{\{{.*?\}}\}})", re.DOTALL)

#: Tags that leave text where they stand, and those whose text is kept for later.
_TEXT: Final = re.compile(r"\{%[-+]?\s*(include|raw)\b")
_KEPT: Final = re.compile(r"\{%[-+]?\s*(macro\b|set\b[^=]*%\})")
_KEPT_END: Final = re.compile(r"\{%[-+]?\s*end(macro|set)\b")


class WholeLines(Extension):
    """Keeps the line break after a block tag that does not stand alone on its line.

    ``trim_blocks`` drops the break after every block tag, so that a tag on a line of its own leaves no empty line. It
    would also join ``Hello{% if name %} {{ name }}{% endif %}`` with the line below. An ``include`` counts as text, and
    what a ``macro`` or a ``set`` keeps for later does not. A tag that begins with ``{%-`` stands on the line before.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002  as declared
        """See ``jinja2.ext.Extension``. The line numbers stay."""
        pieces = _TAG.split(source)
        alone = before = True  # before: as it was before the last text
        kept: list[bool] = []
        for at, piece in enumerate(pieces):
            if at % 2 == 0 or piece.startswith("{{"):
                text = piece.lstrip() if at and pieces[at - 1].endswith("-%}") else piece
                line = text.rpartition("\n")
                before, alone = alone, (alone or bool(line[1])) and not line[2].strip()
                continue
            if piece.startswith("{%-"):
                alone = before and not pieces[at - 1].strip()
            if _KEPT.match(piece):
                kept.append(alone)
            elif _KEPT_END.match(piece) and kept:
                alone = kept.pop()
            elif _TEXT.match(piece):
                alone = False
            if not alone and re.match(r"[ \t]*\r?\n", pieces[at + 1]) and piece[-3:-2] not in "+-":
                pieces[at] = f"{piece[:-2]}+{piece[-2:]}"
        return "".join(pieces)
