"""What can go wrong while a machine is asked for its backing services."""


class LocalStackError(Exception):
    """Base of all errors here; the message is one sentence for the person at the keyboard."""


class MissingPackages(LocalStackError):
    """System packages are missing and may not be installed from here; the message holds the one command to run."""


class PortTaken(LocalStackError):
    """Another process listens on the port that a node was told to use."""


class NodeFailed(LocalStackError):
    """A node ended, or did not answer in time; the message ends with the tail of its log."""


class ProgramFailed(LocalStackError):
    """A program in the foreground is misconfigured, or ends again and again."""
