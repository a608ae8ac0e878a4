"""The errors of a run. Each message says what was wrong, what was seen and what would be right.

EngineError
  UserError             exit code 2: the user can mend it
    RunFileError        the run file, or a --set override
    SourceError         the input images or their labels
    RunDirectoryError   the run directory belongs to another plan, or is not one
    ModelError          a model reference that cannot be loaded
      ModelUnavailableError   ... just now: a network or a disk may be back in a moment
    PlacementError      more devices asked for than there are
    SelectionError      thresholds or labels that cannot be applied to a run
    LeakError           test data found where training data is read
  RunError              exit code 1: the run failed
    ShardError          a shard that is incomplete or whose bytes changed
"""


class EngineError(Exception):
    """Report a failure of the run as a whole; one sample's failure is a Rejection instead."""

    exit_code = 1


class UserError(EngineError):
    """Report a mistake that the user can mend."""

    exit_code = 2


class RunFileError(UserError):
    """Report a run file or an override that is not valid."""


class SourceError(UserError):
    """Report input images or labels that cannot be used."""


class RunDirectoryError(UserError):
    """Report a run directory that belongs to another plan, or is not one."""


class ModelError(UserError):
    """Report a model reference that cannot be loaded."""


class ModelUnavailableError(ModelError):
    """Report a model that could not be fetched or read; another try may."""


class PlacementError(UserError):
    """Report a placement that the machine or cluster cannot satisfy."""


class SelectionError(UserError):
    """Report thresholds or labels that cannot be applied to a run."""


class LeakError(UserError):
    """Report test data found where training data is read."""


class RunError(EngineError):
    """Report a run that failed for a reason outside the user's input."""


class DiskFullError(RunError):
    """Report a disk that has no space left for a file."""


class ShardError(RunError):
    """Report a shard that is incomplete or whose bytes changed."""
