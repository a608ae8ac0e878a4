"""`make bench`: every figure of performance that needs no GPU, each against its target and its peers.

Prints a table for each part, writes build/figures/bench-PART.json. Ratios are of two arms measured in turn in one run;
a machine that does other work besides blurs them, and does not turn them round.
"""

from tests.benchmarks.runs import Part, run_parts


def parts() -> dict[str, Part]:
    """Return the parts by name, imported when they are wanted."""
    from tests.benchmarks.early import early_figures
    from tests.benchmarks.finish import finish_figures
    from tests.benchmarks.handoff import handoff_figures
    from tests.benchmarks.language import language_figures
    from tests.benchmarks.loader import loader_figures
    from tests.benchmarks.slots import slot_figures
    from tests.benchmarks.writer import writer_figures

    return {
        "slots": slot_figures,
        "early": early_figures,
        "writer": writer_figures,
        "finish": finish_figures,
        "handoff": handoff_figures,
        "language": language_figures,
        "loader": loader_figures,
    }


if __name__ == "__main__":
    run_parts("bench", __doc__, parts(), "bench")
