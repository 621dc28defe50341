"""Interrupting a running job from another thread, and nothing but the job.

``windows`` decides when an interrupt is due. How it is raised depends on Python's version (``raiser``): through
``monitored`` from 3.12 on, through ``asynchronous`` before.
"""

from jobkit.interrupts.windows import Interrupts

__all__ = ["Interrupts"]
