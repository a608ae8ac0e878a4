"""The errors of a run. Each message says what was wrong, what was seen and what would be right.

EngineError
  UserError             exit code 2: the user can correct it
    RunFileError        the run file, or a --set override
    SourceError         the input images or their labels
    RunDirectoryError   the run directory belongs to another plan, or is not one
    ModelError          a model reference that cannot be loaded
      ModelUnavailableError   ... for now: another try may succeed
    PlacementError      more devices asked for than there are
    SelectionError      thresholds or labels that cannot be applied to a run
    LeakError           test data found where training data is read
    PreflightError      everything that would fail later, a line each
  RunError              exit code 1: the run failed
    ShardError          a shard that is incomplete or whose bytes changed
"""


class EngineError(Exception):
    """A failure of the run as a whole; one sample's failure is a Rejection instead."""

    exit_code = 1


class UserError(EngineError):
    """A mistake that the user can correct."""

    exit_code = 2


class RunFileError(UserError):
    """A run file or an override that is not valid."""


class SourceError(UserError):
    """Input images or labels that cannot be used."""


class RunDirectoryError(UserError):
    """A run directory that belongs to another plan, or is not one."""


class ModelError(UserError):
    """A model reference that cannot be loaded."""


class ModelUnavailableError(ModelError):
    """A model that could not be fetched or read; another try may."""


class PlacementError(UserError):
    """A placement that the machine or cluster cannot satisfy."""


class SelectionError(UserError):
    """Thresholds or labels that cannot be applied to a run."""


class LeakError(UserError):
    """Test data found where training data is read."""


class PreflightError(UserError):
    """What would make a run fail, found before anything is spent: a line each."""


class RunError(EngineError):
    """A run that failed for a reason outside the user's input."""


class DiskFullError(RunError):
    """A disk that has no space left for a file."""


class ShardError(RunError):
    """A shard that is incomplete or whose bytes changed."""
