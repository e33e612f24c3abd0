"""Every error that Millrace raises on purpose, named by who must act.

A message says where, what was found, what was expected and what to do next.
"""


class MillraceError(Exception):
    """Root of the tree; the command line prints it without a traceback and exits with `exit_code`."""

    exit_code = 1


class DefinitionError(MillraceError):
    """The author of a workload, file or command line must act: what was written cannot mean anything."""

    exit_code = 2


class PoisonEvent(MillraceError):
    """One input record cannot be decided: it becomes a dead letter, and the job goes on."""


class Unavailable(MillraceError):
    """A service did not answer in time: the decision is made without it, and marked as degraded."""


class ModelRejected(MillraceError):
    """A model did not pass its checks: the one that serves stays."""
