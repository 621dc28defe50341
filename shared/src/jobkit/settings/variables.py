"""The environment's variables as they are meant: stripped, the empty ones left out, secrets read from files."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from pydantic import AliasChoices
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource

#: ``NAME_FILE`` names the file that holds the value of ``NAME``, as Docker and Kubernetes mount secrets.
FILE_SUFFIX: Final = "_FILE"

#: Bytes of the largest file that is read; a secret or an address is shorter.
_LARGEST_FILE: Final = 65_536


class Unusable(str):
    """Stands in for a value that could not be had; its text is the complaint."""

    def refuse(self) -> NoReturn:
        """Raise ``ValueError``."""
        raise ValueError(str(self))


class Variables(EnvSettingsSource):
    """Read settings from the environment. An empty or blank variable counts as unset."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found = {name.lower(): value.strip() for name, value in os.environ.items() if value.strip()}
        values: dict[str, str | None] = dict(found)
        for field, info in self.settings_cls.model_fields.items():
            for name in names_of(self.settings_cls, field, info):
                file = f"{name}{FILE_SUFFIX}"
                if file.lower() in found and not _is_setting(self.settings_cls, file):
                    path, both = found[file.lower()], name.lower() in found
                    values[name.lower()] = Unusable(f"{file} is set as well: set one of them") if both else _read(path)
        return values


def names_of(settings: type[BaseSettings], field: str, info: FieldInfo) -> list[str]:
    """Return the names of the variables that set a field, the usual one first."""
    alias = info.validation_alias
    if isinstance(alias, AliasChoices):
        return [str(choice) for choice in alias.choices]
    return [alias if isinstance(alias, str) else f"{settings.model_config.get('env_prefix') or ''}{field}".upper()]


def _is_setting(settings: type[BaseSettings], variable: str) -> bool:
    """Return whether a variable named like a file of another is a setting of its own."""
    fields = settings.model_fields.items()
    return any(variable in names_of(settings, field, info) for field, info in fields)


def _read(path: str) -> str:
    file = Path(path)
    try:
        with file.open("rb") as opened:
            content = opened.read(_LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have that name"
        return Unusable(
            f"the file {path!r}, which its variable ending in {FILE_SUFFIX} names, cannot be read: {reason}"
        )
    if len(content) > _LARGEST_FILE:
        return Unusable(f"the file {path!r} is larger than {_LARGEST_FILE:,} bytes, so it holds no setting")
    try:
        text = content.decode("utf-8-sig").strip()  # some editors begin a file with a byte order mark
    except UnicodeDecodeError:
        return Unusable(f"the file {path!r} is not UTF-8 text")
    return text or Unusable(f"the file {path!r} is empty")
