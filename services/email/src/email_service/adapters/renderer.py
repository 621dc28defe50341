"""Templates: a folder each, with the subject, an HTML and a text body."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from css_inline import CSSInliner
from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound, TemplateSyntaxError, select_autoescape
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import JsonValue

from email_service.errors import TemplateFailed, TemplateMissing, TemplatesUnreadable
from jobkit.errors import SettingsError

PACKAGED = Path(__file__).parent.parent / "templates"


@dataclass(frozen=True)
class Rendered:
    """What an e-mail says; the HTML has its styles in the elements, where every mail reader heeds them."""

    subject: str
    html: str
    text: str


class Renderer(Protocol):
    """Turns a template's name and variables into an e-mail's subject and bodies."""

    def render(self, template: str, variables: Mapping[str, JsonValue]) -> Rendered:
        """Render all parts.

        Raises:
            TemplateMissing: there is no such template.
            TemplateFailed: the template or the variables have a mistake.
            TemplatesUnreadable: reading failed for reasons that may pass.
        """
        ...


class TemplateRenderer:
    """Renders Jinja2 templates from a folder: ``<name>/subject.txt``, ``<name>/body.html``, ``<name>/body.txt``.

    Files beside the folders are for ``{% extends %}`` and ``{% include %}``. The sandbox keeps a template from reaching
    its process; a variable that is used and not given is an error, never an empty space in somebody's letter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = ImmutableSandboxedEnvironment(
            loader=FileSystemLoader(folder),
            undefined=StrictUndefined,
            autoescape=select_autoescape(enabled_extensions=("html",), default=False),
            trim_blocks=True,
            lstrip_blocks=True,
        )
        # A stylesheet named by a template would be read from this machine or its network.
        self._inliner = CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)

    @classmethod
    def from_folder(cls, folder: Path | None) -> Self:
        """The renderer for EMAIL_TEMPLATES, or for the packaged templates.

        Raises:
            SettingsError: there is no template in it.
        """
        renderer = cls(folder or PACKAGED)
        if not renderer.names():
            raise SettingsError(f"EMAIL_TEMPLATES: {folder} holds no folder with subject.txt, body.html and body.txt")
        return renderer

    def names(self) -> list[str]:
        """The templates that exist, sorted."""
        return sorted(path.parent.name for path in self._folder.glob("*/subject.txt"))

    def render(self, template: str, variables: Mapping[str, JsonValue]) -> Rendered:
        """See ``Renderer``."""
        subject = self._part(f"{template}/subject.txt", variables).strip()
        html = self._part(f"{template}/body.html", variables)
        text = self._part(f"{template}/body.txt", variables)
        try:
            html = self._inliner.inline(html)
        except ValueError as error:
            raise TemplateFailed(f"{template}/body.html: its styles cannot be inlined: {error}") from error
        return Rendered(subject, html, text)

    def _part(self, name: str, variables: Mapping[str, JsonValue]) -> str:
        try:
            text = self._environment.get_template(name).render(variables)
            text.encode()  # half a surrogate pair, which JSON can carry, is not text
        except TemplateNotFound as error:
            known = ", ".join(self.names())
            raise TemplateMissing(f"{name}: there is no template file {error.name!r}; templates: {known}") from error
        except TemplateSyntaxError as error:
            raise TemplateFailed(f"{error.name or name}, line {error.lineno}: {error.message}") from error
        except OSError as error:
            raise TemplatesUnreadable(f"{name} cannot be read: {error.strerror or error}") from error
        except MemoryError:
            raise
        except Exception as error:  # an expression may raise anything; the same variables will raise it again
            raise TemplateFailed(f"{name}: {str(error) or type(error).__name__}") from error
        return text
