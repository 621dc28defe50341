"""What travels between services: one module of Pydantic models per service, and nothing that needs a broker."""

from jobkit.contracts.job import CONTRACT_VERSION_OPTION, Job

__all__ = ["CONTRACT_VERSION_OPTION", "Job"]
