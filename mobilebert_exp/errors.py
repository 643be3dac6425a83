"""Every error a user can cause.

    UserError (ValueError)        one line, exit code 2: what, where, remedy
    ├── ConfigError               a setting, or a combination of settings, that cannot work
    ├── DataError                 an input file that is missing, malformed or of another kind
    │   └── MissingDataError      one that is not there at all, or a part that a data set does not have
    ├── CheckpointError           a checkpoint that is missing, torn or of another model
    ├── OutputError               a place that cannot be written (rights, space)
    ├── StorageError              a bucket that refuses, or cannot be reached
    ├── WorkerError               a process of ours that was ended from outside, or cannot be started
    ├── DivergedError             a training whose loss is no longer a number
    └── ExportError               a model that cannot be exported, or an exported file that cannot be read or run
        └── NoSuchFormError       a model without such an exported form

    RunStopped (BaseException)    not a mistake: the run was asked to stop; passes through whatever runs it, a sweep too

Anything else that reaches the entry point is a defect of ours and shows its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake the user can mend; its text is one line that says what, where and the remedy."""


class ConfigError(UserError):
    """A setting, or a combination of settings, that cannot work."""


class DataError(UserError):
    """An input file that is missing, malformed or of another kind."""


class MissingDataError(DataError):
    """An input file that is not there, or a part that a data set does not have; `mode=prepare` does without."""


class CheckpointError(UserError):
    """A checkpoint that is missing, torn or belongs to another model."""


class ExportError(UserError):
    """A model that cannot be a file for devices, or a file for devices that is torn, foreign or cannot be run."""


class NoSuchFormError(ExportError):
    """A model that has no such form on a device; it may have others."""


class OutputError(UserError):
    """A place that cannot be written: no rights, no space."""


class StorageError(UserError):
    """A bucket of Cloud Storage that refuses or cannot be reached."""


class WorkerError(UserError):
    """A process that shared the work was ended from outside, or cannot be started."""


class DivergedError(UserError):
    """The loss or a gradient is no longer a number; the run ends FAILED, never FINISHED."""


class RunStopped(BaseException):
    """The run was asked to stop (Ctrl-C, SIGTERM) and has saved what it had.

    Attributes:
      signal_number: the signal that asked, e.g. 15 for SIGTERM.
      exit_code: 128 + signal_number, as shells expect.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by signal {signal_number}")
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number
