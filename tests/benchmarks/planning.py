"""What planning takes: a table of a million rows and more, through the code of every plan."""

from collections.abc import Iterator
from pathlib import Path

from engine.figures.figures import Figure
from engine.plan.plan import make_plan
from engine.runfile.run import RunFile
from tests.benchmarks.fresh import measure

MILLION = 1_000_000
NUM_CLASSES = 1000
SOURCES_PER_SHARD = 32
# As many images are looked for before a listing is believed.
NUM_FILES = 20


def planning_figures(folder: Path, num_sources: int) -> Iterator[Figure]:
    """Yield seconds a million and memory of the plan of so many sources, near-duplicates off."""
    table = write_table(folder, num_sources)
    taken = measure("tests.benchmarks.planning:plan_table", str(table))
    table.unlink()
    name, millions = f"plan_{num_sources // MILLION}_million", num_sources / MILLION
    yield Figure(
        name=f"{name}.seconds",
        value=taken.seconds / millions,
        target=10,
        better="lower",
        n=num_sources,
        unit="s a million",
    )
    yield Figure(name=f"{name}.core_seconds", value=taken.core_s / millions, n=num_sources, unit="s a million")
    yield Figure(
        name=f"{name}.memory",
        value=taken.peak_mib,
        target=1024 if num_sources == MILLION else None,
        better="lower",
        n=num_sources,
        unit="MiB",
    )
    yield Figure(name=f"{name}.shards", value=taken.result["shards"], unit="")
    yield Figure(name=f"{name}.file", value=taken.result["plan_bytes"] / 2**20, unit="MiB")


def plan_table(table: str) -> dict[str, int]:
    """Plan a table, write the plan as a run directory does, and return how large it is."""
    plan = make_plan(run_of(Path(table)))
    return {"shards": plan.num_shards, "plan_bytes": len(plan.to_bytes())}


def run_of(table: Path, sources_per_shard: int = SOURCES_PER_SHARD, train_share: float = 0.8) -> RunFile:
    """Return a run file for a table."""
    splits = {"train": train_share, "validation": 0.0, "test": 1 - train_share}
    return RunFile.model_validate(
        {
            "name": "scale",
            "data": {
                "train": {"kind": "table", "path": str(table)},
                "splits": splits,
                "near_duplicates": "off",
            },
            "shards": {"sources_per_shard": sources_per_shard},
            "stages": {"captioner": {"kind": "captioner", "model": {"name": "zoo/captioner"}}},
            "probe": {"model": {"name": "zoo/patient"}},
        }
    )


def write_table(folder: Path, num_sources: int) -> Path:
    """Write a table as users have them: path, label, caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(NUM_FILES):
        path = folder / image_path(number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    table = folder / "labels.csv"
    with table.open("w") as file:
        file.write("path,label,caption\n")
        for number in range(num_sources):
            label = number % NUM_CLASSES
            file.write(f"{image_path(number)},class {label},a photo of thing {label} on ground {number % 97}\n")
    return table


def image_path(number: int) -> str:
    """Return where an image of the table would lie."""
    return f"n{number % NUM_CLASSES:04d}/{number:08d}.jpg"
