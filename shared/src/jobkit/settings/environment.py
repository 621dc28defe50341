"""The base of all settings: fields that are read from the environment, and complaints that name the variable."""

import re
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import Field, Secret, SecretStr, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as NotJson

from jobkit.errors import SettingsError
from jobkit.settings.variables import Unusable, Variables, names_of

#: What the tracked ``.env`` holds in place of secrets. It works at once on a laptop and nowhere else.
DEFAULT_SECRET = "changethis"  # noqa: S105  a placeholder to be refused, not a password
_KNOWN_SECRETS = {DEFAULT_SECRET, "guest"}

#: Marks a field whose default is a place or an identity that only development has: ``json_schema_extra`` of its
#: ``Field``. Elsewhere it must be set.
DEVELOPMENT_ONLY: Final[dict[str, Any]] = {"development_only": True}

_QUOTES: Final = "\"'`\u201c\u201d\u2018\u2019\u00ab\u00bb"
#: ``${NAME}`` of a shell or of compose, ``$(NAME)`` of Kubernetes, ``{{ name }}`` of a template, and ``$NAME`` where it
#: is a whole part of an address. A password may hold a lone ``$``.
_UNEXPANDED: Final = re.compile(r"\$\{|\$\(\w|\{\{|(?:^|(?<=[:/@,=]))\$[A-Za-z_]\w+(?=$|[:/@,?&])")


class EnvironmentSettings(BaseSettings):
    """Base of all settings: reads its fields from the environment and names the variable in each complaint.

    White space around a value is stripped, and an empty variable counts as unset. ``NAME_FILE`` names a file that holds
    the value of ``NAME``.
    """

    # An error that shows its input would show passwords.
    model_config = SettingsConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003  replaced; it is called by these names
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read the environment by ``Variables``."""
        return init_settings, Variables(settings_cls), dotenv_settings, file_secret_settings

    @classmethod
    def load(cls) -> Self:
        """Read the environment.

        Raises:
            SettingsError: one line for each variable that is missing, malformed or unsafe.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("\n".join(cls._complaint(e) for e in error.errors())) from None
        except NotJson as error:
            named = re.search(r'field "(\w+)"', str(error))
            variable = cls.variable(named[1]) if named else cls.__name__
            raise SettingsError(f"{variable}: must be a value in JSON") from None

    @classmethod
    def variable(cls, field: str) -> str:
        """Return the name of the environment variable that sets ``field``."""
        return names_of(cls, field, cls.model_fields.get(field) or Field())[0]

    def default_secrets(self) -> list[str]:
        """Return the variables whose password is a default that everybody knows."""
        return [self.variable(name) for name in type(self).model_fields if _has_default_secret(getattr(self, name))]

    def unsafe_defaults(self, environment: str) -> list[str]:
        """Return a line for each variable that must be set in ``environment``, which is not development."""
        unset = self.left_to_development()
        known = [name for name in self.default_secrets() if name not in unset]
        return [
            *(f"{name}: is not set, and {environment} has no default for it" for name in unset),
            *(f"{name}: a default password that everybody knows; set one for {environment}" for name in known),
        ]

    def left_to_development(self) -> list[str]:
        """Return the variables that are not set and whose default only development has."""
        fields = type(self).model_fields.items()
        marked = [name for name, info in fields if _is_marked(info.json_schema_extra)]
        return [self.variable(name) for name in marked if name not in self.model_fields_set]

    @field_validator("*", mode="before")
    @classmethod
    def _is_what_was_meant(cls, value: object) -> object:
        """Refuse what whoever wrote the environment meant to be replaced or removed; strip white space."""
        if isinstance(value, Unusable):
            value.refuse()
        if not isinstance(value, str):
            return value
        text = value.strip()
        if text and (text[0] in _QUOTES or text[-1] in _QUOTES):
            raise ValueError("it is in quotes, which belong to the value here: write it without them")
        if _UNEXPANDED.search(text):
            raise ValueError("it holds a variable that nothing has replaced by its value, such as ${NAME}")
        if not text.isprintable():
            raise ValueError("it holds a line break or another control character")
        return text

    @classmethod
    def _complaint(cls, error: ErrorDetails) -> str:
        text = error["msg"].removeprefix("Value error, ")
        if not error["loc"]:
            return text
        field = str(error["loc"][0])
        return f"{cls.variable(field) if field in cls.model_fields else field.upper()}: {text}"


def _is_marked(extra: object) -> bool:
    return isinstance(extra, dict) and bool(extra.get("development_only"))


def _has_default_secret(value: object) -> bool:
    text = str(value.get_secret_value()) if isinstance(value, SecretStr | Secret) else str(value)
    addresses = [urlsplit(part.strip()) for part in text.split(",") if "://" in part]
    # A client of RabbitMQ that is given no login uses guest and guest.
    nameless = any(address.scheme in {"amqp", "amqps"} and address.username is None for address in addresses)
    in_addresses = {unquote(address.password or "") for address in addresses}
    in_options = {one for address in addresses for one in parse_qs(address.query).get("password", [])}
    return nameless or not _KNOWN_SECRETS.isdisjoint({text} | in_addresses | in_options)
