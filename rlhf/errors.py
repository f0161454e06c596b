"""Errors that a user can act on, each with the exit code its command ends with."""


class PreflowError(Exception):
    """Something the user can mend. The message says what was seen, what was expected and which knob to turn."""

    exit_code = 1


class DataRefused(PreflowError):
    """The validation gate stopped the run: nothing was trained on this data."""

    exit_code = 3


class Busy(PreflowError):
    """Another process holds the workspace or the stage."""

    exit_code = 75


class Preempted(PreflowError):
    """Asked to stop (SIGTERM); what was done is saved and running again goes on from there."""

    exit_code = 85


class NumericsError(PreflowError):
    """The numbers of a training say that going on is of no use; the last good checkpoint is intact."""

    exit_code = 86


class OutOfMemory(PreflowError):
    """The machine has less memory than this stage wanted at once."""


class DependencyDown(PreflowError):
    """A service this stage cannot work without did not answer."""

    exit_code = 87
