"""Templates: a folder each, with the subject, an HTML and a text body."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from jinja2 import FileSystemLoader, StrictUndefined, TemplateNotFound, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import JsonValue

from email_service.adapters.inlining import Inliner
from email_service.adapters.nesting import refuse_deep_nesting
from email_service.adapters.sources import WholeLines
from email_service.adapters.values import bound, in_parts, is_none, of_json, or_default, shown, to_null
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

    def variant(self, template: str, language: str | None) -> str:
        """Return the name of the template's variant in a language, or the template's own if it has none."""
        ...

    def render(self, template: str, variables: Mapping[str, JsonValue]) -> Rendered:
        """Render all parts.

        Raises:
            TemplateMissing: there is no such template.
            TemplateFailed: the template or the variables have a mistake.
            TemplatesUnreadable: reading failed for reasons that may pass.
        """
        ...


#: Filters that give a generator, whose text is ``<generator object …>``.
_GENERATING = ("batch", "items", "map", "reject", "rejectattr", "select", "selectattr", "slice", "unique")


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja2 as letters need it.

    ``order.items`` is the variable of that name before it is the method of a mapping. Whatever would read like code in
    a letter is an error where it is printed: a null, a method, a generator.
    """

    def __init__(self, folder: Path, *, html: bool) -> None:
        super().__init__(
            loader=FileSystemLoader(folder, encoding="utf-8-sig"),  # editors on Windows write a byte order mark
            undefined=StrictUndefined,
            autoescape=html,  # by the part that is rendered, whatever the files that it includes are called
            finalize=shown,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[WholeLines],
        )
        self.filters |= {name: in_parts(self.filters[name]) for name in _GENERATING}
        self.filters["default"] = self.filters["d"] = or_default
        self.tests["none"] = is_none
        self.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": to_null}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Look up ``obj.attribute`` in a template."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return bound(super().getattr(obj, attribute), attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look up ``obj[argument]`` in a template."""
        return bound(super().getitem(obj, argument), str(argument))


class TemplateRenderer:
    """Renders Jinja2 templates from a folder: ``<name>/subject.txt``, ``<name>/body.html``, ``<name>/body.txt``.

    Files beside the folders are for ``{% extends %}`` and ``{% include %}``. The sandbox keeps a template from reaching
    its process; a variable that is used and not given is an error, never an empty space in somebody's letter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._text, self._html = _Environment(folder, html=False), _Environment(folder, html=True)
        self._inliner = Inliner()

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

    def variant(self, template: str, language: str | None) -> str:
        """See ``Renderer``."""
        tag = language.lower() if language else ""
        names = {name.lower(): name for name in self.names()} if tag else {}  # the case of a tag means nothing
        while tag:
            if (found := names.get(f"{template}.{tag}")) is not None:
                return found
            tag = tag.rpartition("-")[0]
        return template

    def render(self, template: str, variables: Mapping[str, JsonValue]) -> Rendered:
        """See ``Renderer``."""
        subject = self._part(self._text, f"{template}/subject.txt", variables).strip()
        html = self._part(self._html, f"{template}/body.html", variables)
        text = self._part(self._text, f"{template}/body.txt", variables)
        refuse_deep_nesting(html, f"{template}/body.html")
        try:
            html = self._inliner.inline(html)
        except ValueError as error:
            raise TemplateFailed(f"{template}/body.html: its styles cannot be inlined: {error}") from error
        return Rendered(subject, html, text)

    def _part(self, environment: _Environment, name: str, variables: Mapping[str, JsonValue]) -> str:
        try:
            text = environment.get_template(name).render({key: of_json(value) for key, value in variables.items()})
            text.encode()  # half a surrogate pair, which JSON can carry, is not text
        except TemplateNotFound as error:
            known = ", ".join(self.names())
            raise TemplateMissing(f"{name}: there is no template file {error.name!r}; templates: {known}") from error
        except TemplateSyntaxError as error:
            raise TemplateFailed(f"{error.name or name}, line {error.lineno}: {error.message}") from error
        except OSError as error:
            raise TemplatesUnreadable(f"{name} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise TemplateFailed(f"{name}, or a file that it includes, is not UTF-8: {error}") from error
        except MemoryError:
            raise
        except Exception as error:  # an expression may raise anything; the same variables will raise it again
            raise TemplateFailed(f"{name}: {str(error) or type(error).__name__}") from error
        return text
