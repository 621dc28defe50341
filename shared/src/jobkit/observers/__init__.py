"""Observers: code of a service's own that is told of its jobs' starts, ends and failures."""

from jobkit.observers.observer import Event, Observation, Observer, Run

__all__ = ["Event", "Observation", "Observer", "Run"]
