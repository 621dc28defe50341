"""How long programs in the foreground may take to stop."""

from collections.abc import Mapping

#: The longest of the services' own defaults of ``<SERVICE>_STOP_GRACE_SECONDS``, and the most that they accept.
LONGEST_DEFAULT, MAXIMUM = 840, 7200


def grace_seconds(variables: Mapping[str, str]) -> int:
    """Seconds for the slowest service: the longest that the variables say, and no less than the longest default."""
    said = [value for name, value in variables.items() if name.endswith("_STOP_GRACE_SECONDS")]
    return min(max([LONGEST_DEFAULT, *(int(value) for value in said if value.isdecimal())]), MAXIMUM)
