"""run.json: what a worker must know of a run, and which plan its directory belongs to."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from engine.errors import RunDirectoryError
from engine.runfile.stages import AnyStageConfig
from engine.storage.storage import Storage

RUN_INFO = "run.json"
FORMAT = 3
# What all the images of a run are: readers take the members of a dataset's first samples for those of all.
Images = Literal["jpeg", "png"]


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """Hold run.json: what a worker must know of the run. `digest` names the plan, and so the bytes of every shard."""

    format: int
    name: str
    digest: str
    num_shards: int
    classes: tuple[str, ...]
    keep_rejected: Literal["all", "metadata", "none"]
    versions: dict[str, str]
    revision: str
    images: Images = "jpeg"


def images_of(stages: Iterable[AnyStageConfig]) -> Images:
    """Return what all the images of a run become: PNG where an editor gives that."""
    return "png" if any(getattr(stage, "lossless", False) for stage in stages) else "jpeg"


def read_run_info(storage: Storage) -> RunInfo:
    """Return the run.json of a run directory; RunDirectoryError where there is none, or another format's."""
    try:
        record = json.loads(storage.read(RUN_INFO))
        if record["format"] != FORMAT:
            raise RunDirectoryError(
                f"{storage} has format {record['format']}, this version reads format {FORMAT}: use counterforge "
                f"{record['versions']['counterforge']} at revision {record['revision'][:12]}, which wrote it, or make "
                "the run again with another --out"
            )
        info = RunInfo(**record | {"classes": tuple(record["classes"])})
    except FileNotFoundError as error:
        raise RunDirectoryError(
            f"{storage} is not a run directory, it has no {RUN_INFO}: give the folder that `counterforge run` wrote to"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{storage.name(RUN_INFO)} cannot be read ({error}): restore it, or choose another --out"
        ) from error
    return info


def refuse_other_plan(storage: Storage, found: RunInfo, wanted: RunInfo) -> None:
    """Raise RunDirectoryError where the directory of `found` would get the shards of another plan."""
    if found.digest == wanted.digest:
        return
    raise RunDirectoryError(
        f"{storage} belongs to another plan: it was made for {found.name!r}, plan {found.digest[:12]}, and this run is "
        f"{wanted.name!r}, plan {wanted.digest[:12]}: seed, data, shards or stages differ, see its run.yaml. "
        "Choose another folder with --out, or delete this one; a run from before sources that look alike were kept in "
        "one split goes on with data.near_duplicates: off"
    )
