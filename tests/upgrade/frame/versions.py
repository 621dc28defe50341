"""The versions of jobkit that an upgrade test runs side by side."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]

#: One wheel for each earlier version; each test runs once for each of them.
WHEELS = sorted((HERE.parent / "before").glob("*.whl"))


@dataclass(frozen=True)
class Version:
    """One version of jobkit.

    Attributes:
        name: For test ids, log files and failures.
        root: The folder that contains the package ``jobkit``.
    """

    name: str
    root: Path

    def environment(self) -> dict[str, str]:
        """Return the variables with which a Python process imports this version and the frame's own modules."""
        folders = [self.root, HERE, ROOT / "tests/harness"]
        return {"PYTHONPATH": ":".join(map(str, folders))}


#: The version in this checkout.
NOW = Version("now", ROOT / "shared/src")


@dataclass(frozen=True)
class Versions:
    """An earlier version, and the version in this checkout."""

    before: Version
    now: Version

    @classmethod
    def unpack(cls, wheel: Path, folder: Path) -> "Versions":
        """Unpack ``wheel`` into ``folder``, so that Python keeps its compiled files there."""
        root = folder / wheel.stem
        if not root.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(root)
        return cls(Version("before", root), NOW)
