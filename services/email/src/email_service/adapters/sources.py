"""Template sources: whose lines run together with the next one, and whose do not."""

import re
from typing import Final

from jinja2.ext import Extension

_RAW: Final = r"\{%[-+]?\s*raw\s*[-+]?%\}.*?\{%[-+]?\s*endraw\s*[-+]?%\}"
_TAG: Final = re.compile(rf"({_RAW}|\{{#.*?#\}}|\{{%.*?%\}}|\{{\{{.*?\}}\}})", re.DOTALL)


class WholeLines(Extension):
    """Keeps the line break after a block tag that does not stand alone on its line.

    ``trim_blocks`` drops the break after every block tag, so that a tag on a line of its own leaves no empty line. It
    would also join ``Hello{% if name %} {{ name }}{% endif %}`` with the line below. An ``include`` counts as text.
    """

    def preprocess(self, source: str, name: str | None, filename: str | None = None) -> str:  # noqa: ARG002  as declared
        """See ``jinja2.ext.Extension``. The line numbers stay."""
        pieces = _TAG.split(source)
        alone = True
        for at, piece in enumerate(pieces):
            if at % 2 == 0 or piece.startswith("{{"):
                line = piece.rpartition("\n")
                alone = (alone or bool(line[1])) and not line[2].strip()
            elif not piece.startswith("{#"):
                alone = alone and re.match(r"\{%[-+]?\s*(include|raw)\b", piece) is None
            if at % 2 and not alone and re.match(r"[ \t]*\r?\n", pieces[at + 1]) and piece[-3:-2] not in "+-":
                pieces[at] = _keeps_the_break(piece)
        return "".join(pieces)


def _keeps_the_break(tag: str) -> str:
    return tag if tag.startswith("{{") else f"{tag[:-2]}+{tag[-2:]}"
