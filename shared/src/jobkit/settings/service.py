"""What every service is told beside its own settings."""

from typing import ClassVar

from pydantic import Field

from jobkit.settings.environment import EnvironmentSettings


class ServiceSettings(EnvironmentSettings):
    """What every service is told beside its own settings; a service sets the prefix (``EMAIL_PROCESSES``)."""

    #: Whether the supervisor imports the service, once, and its worker processes are forks that share its memory. False
    #: where a library starts threads when it is imported, which a fork would not have: each process imports it then.
    preloads: ClassVar[bool] = True

    processes: int = Field(2, ge=1, le=64, description="Worker processes. One per core for work that needs the CPU.")
    threads: int = Field(8, ge=1, le=256, description="Threads per process. More than one only helps work that waits.")
    prefetch: int = Field(
        0,
        ge=0,
        le=2000,
        description="Messages held per process and queue; 0 takes two per thread, and eight where jobs are quick. "
        "1 suits long jobs.",
    )
    stop_grace_seconds: int = Field(
        60, ge=5, le=7200, description="Seconds from SIGTERM to SIGKILL, as the container's stop grace says."
    )
    stop_limit_seconds: int | None = Field(
        None,
        ge=0,
        le=7200,
        description="Seconds from SIGTERM until a job is interrupted and requeued. Not set: jobs must fit into the "
        "stop grace.",
    )
