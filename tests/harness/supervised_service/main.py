"""The probe service's broker, where ``jobkit worker`` looks for it."""

from probe_service import broker

__all__ = ["broker"]
