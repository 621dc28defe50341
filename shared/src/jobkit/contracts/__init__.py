"""What travels between services: one module of Pydantic models per service, and nothing that needs a broker."""

from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job
from jobkit.contracts.payload import PayloadChanged
from jobkit.contracts.tick import Tick, due_time

__all__ = ["CONTRACT_VERSION_OPTION", "Job", "PayloadChanged", "Tick", "due_time"]
