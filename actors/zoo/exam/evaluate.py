"""Measure the zoo on held-out garments: `make zoo-eval`. Prints a table and writes build/figures/zoo-eval.json."""

import argparse
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

import torch

from actors.zoo import MODELS_FOLDER
from actors.zoo.exam.editor import EditorExam
from actors.zoo.exam.page import exam_page
from actors.zoo.exam.regions import segmenter_figures
from actors.zoo.exam.scenes import Exam
from actors.zoo.exam.turns import turns_figures
from actors.zoo.exam.verifier import verifier_figures
from actors.zoo.exam.words import captioner_figures, perturber_figures
from actors.zoo.recipes.judge import load_judge
from actors.zoo.recipes.patient import CLASSIFIERS, classifier_figures
from engine.errors import EngineError
from engine.figures.figures import FIGURES_FOLDER, Figure, describe, machine, table, write_figures
from engine.runfile.captioner import CaptionerConfig
from engine.runfile.editor import EditorConfig
from engine.runfile.fields import StageConfig
from engine.runfile.load import load_run_file
from engine.runfile.perturber import PerturberConfig
from engine.runfile.run import RunFile
from engine.runfile.verifier import VerifierConfig

PARTS = ("patients", "captioner", "perturber", "segmenter", "editor", "turns", "verifier", "severity", "curve")
# As many as the targets ask for, and the fewest that every measure can be taken on.
LEAST, FEWEST = 1000, 16
SHEET, ROC = "zoo-eval-edits.png", "zoo-eval-roc.json"
Config = TypeVar("Config", bound=StageConfig)


def main() -> int:
    """Measure the parts that were asked for, in turn, printing each figure as it comes."""
    parser = argparse.ArgumentParser(prog="python -m actors.zoo.exam.evaluate", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="one part instead of all; may be given again")
    parser.add_argument(
        "--scenes", type=int, default=LEAST, help=f"held-out composites; fewer, {FEWEST} or more, only to try it"
    )
    parser.add_argument(
        "--run-file", type=Path, default=Path("configs/wardrobe.yaml"), help="whose stages' settings are examined"
    )
    parser.add_argument("--out", type=Path, default=FIGURES_FOLDER, help="folder of zoo-eval.json and the pictures")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.scenes < FEWEST:
        parser.error(f"--scenes {arguments.scenes}: too few to measure anything on; give {FEWEST} or more")
    torch.set_num_threads(arguments.threads)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        run = load_run_file(arguments.run_file)
        exam = Exam(load_judge(MODELS_FOLDER / "judge"), arguments.scenes)
        figures = _measured(exam, run, arguments.only or PARTS, arguments.out)
    except (EngineError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = write_figures("zoo-eval", figures, arguments.out)
    sheet, roc = arguments.out / SHEET, arguments.out / ROC
    points = json.loads(roc.read_text()) if roc.exists() else {"false_refusal_rate": [], "recall": []}
    page = arguments.out / "zoo-eval.html"
    page.write_text(
        exam_page(
            figures,
            machine(),
            list(zip(points["false_refusal_rate"], points["recall"], strict=True)),
            sheet.read_bytes() if sheet.exists() else None,
        )
    )
    print(f"\n{table(figures)}\n\n{describe(machine())}\n{path}\n{page}")
    missed = [figure.name for figure in figures if figure.met is False]
    print(f"{len(missed)} of {sum(figure.met is not None for figure in figures)} targets missed: {', '.join(missed)}")
    return 0


def _measured(exam: Exam, run: RunFile, parts: tuple[str, ...], out: Path) -> list[Figure]:
    """Return the figures; what was measured is kept where the examination is interrupted."""
    figures: list[Figure] = []
    try:
        for figure in _figures(exam, run, parts, out):
            print(f"{time.strftime('%H:%M:%S')} {figure.name} {figure.value:.3f}", flush=True)
            figures.append(figure)
    except KeyboardInterrupt:
        print("interrupted: only these were measured", file=sys.stderr)
    return figures


def _figures(exam: Exam, run: RunFile, parts: tuple[str, ...], out: Path) -> Iterator[Figure]:
    @cache
    def editor() -> EditorExam:
        made = EditorExam(exam, stage_of(run, EditorConfig))
        (out / SHEET).write_bytes(made.sheet())
        return made

    def verifier() -> Iterator[Figure]:
        return verifier_figures(exam, stage_of(run, VerifierConfig), editor().edits["background"], out / ROC)

    examine: dict[str, Callable[[], Iterator[Figure]]] = {
        "patients": lambda: chain(*(classifier_figures(name, MODELS_FOLDER / name) for name in CLASSIFIERS)),
        "captioner": lambda: captioner_figures(exam, stage_of(run, CaptionerConfig)),
        "perturber": lambda: perturber_figures(exam, stage_of(run, PerturberConfig)),
        "segmenter": lambda: segmenter_figures(exam.num_scenes),
        "editor": lambda: editor().figures(),
        "turns": lambda: turns_figures(exam, stage_of(run, EditorConfig)),
        "verifier": verifier,
        "severity": lambda: editor().severity_figures(),
        "curve": lambda: editor().curve_figures(),
    }
    for part in PARTS:
        if part in parts:
            yield from examine[part]()


def stage_of(run: RunFile, kind: type[Config]) -> Config:
    """Return the settings of the run file's stage of one kind."""
    return next(config for config in run.stages.values() if isinstance(config, kind))


if __name__ == "__main__":
    sys.exit(main())
