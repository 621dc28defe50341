"""Durations that read as they are spoken: ``minutes(5)``."""

from datetime import timedelta


def seconds(number: float) -> timedelta:
    """A duration in seconds."""
    return timedelta(seconds=number)


def minutes(number: float) -> timedelta:
    """A duration in minutes."""
    return timedelta(minutes=number)


def hours(number: float) -> timedelta:
    """A duration in hours."""
    return timedelta(hours=number)


def milliseconds(duration: timedelta) -> int:
    """The whole milliseconds of a duration, the unit in which Dramatiq and Redis count."""
    return duration // timedelta(milliseconds=1)  # a float would turn 1.001 s into 1000 ms
