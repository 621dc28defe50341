"""Which tests need a newer Python than this one."""

import sys

#: Python 3.11 has no ``sys.monitoring``, and what is tested there does not exist.
collect_ignore = [] if sys.version_info >= (3, 12) else ["test_monitored_interrupts.py"]
