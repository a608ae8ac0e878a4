"""The command `learn`: teach an editor a value, as a word or a LoRA, from the accepted edits of a run."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cli.options import Commands, add_command, add_run_directory, open_directory

if TYPE_CHECKING:
    from cluster.phases.learn import LearnRequest

DEFAULT_STEPS, DEFAULT_VECTORS, DEFAULT_RANK, DEFAULT_PAIRS = 200, 4, 4, 500
FOLDER = "learned"


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "learn", learn)
    add_run_directory(parser)
    parser.add_argument(
        "--after", required=True, metavar="VALUE", help="the value of the edits to learn from, such as snow"
    )
    parser.add_argument(
        "--as",
        required=True,
        choices=("token", "lora"),
        dest="kind",
        help="token: a new word of the text encoder; lora: a low-rank adapter of the UNet's attention",
    )
    parser.add_argument("--classes", metavar="a,b,c", help="learn from these classes alone; default: from all")
    parser.add_argument(
        "--start",
        metavar="WORD",
        help="token: the word that the new one starts as and whose norm it keeps; lora: the word that stands in the "
        "texts for VALUE; default: VALUE",
    )
    parser.add_argument(
        "--steps", type=_positive, default=DEFAULT_STEPS, metavar="N", help=f"steps (default: {DEFAULT_STEPS})"
    )
    parser.add_argument(
        "--vectors",
        type=_positive,
        metavar="N",
        help=f"token: vectors of the word (default: {DEFAULT_VECTORS})",
    )
    parser.add_argument("--rank", type=_positive, metavar="N", help=f"lora: its rank (default: {DEFAULT_RANK})")
    parser.add_argument(
        "--pairs",
        type=_positive,
        default=DEFAULT_PAIRS,
        metavar="N",
        help=f"learn from this many pairs at most (default: {DEFAULT_PAIRS})",
    )
    parser.add_argument("--stage", metavar="NAME", help="the editor that learns, where the run has several")
    parser.add_argument("--gpu", action="store_true", help="learn on a GPU")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help=f"folder of what is learned (default: {FOLDER}/VALUE)"
    )


def learn(options: argparse.Namespace) -> int:
    """Teach an editor a value, as a word or a LoRA, from the accepted edits of a run.

    From pairs of a source and an accepted edit whose value (what the picture has afterwards) is VALUE the editor learns
    by its own denoising loss. Only edits of train sources at severity 1 are learned from, whichever editor drew them.
    RUN is only read. --as token is textual inversion: a few vectors of the text encoder are learned, all else stays as
    it is. --as lora learns a low-rank adapter of the attention of its UNet: it can show what no text of the editor
    says, and it also learns how the pairs differ from their sources otherwise.

    The folder gets learned.safetensors and README.md, which says what it was learned from and what that cost. In a run
    file the editor then takes it by one of

      stages:
        editor: {kind: editor, ..., adapters: [{value: snow, path: learned/snow}]}
        editor: {kind: editor, ..., adapters: [{value: snow, path: learned/snow, kind: lora, steps: [0.25, 1.0]}]}

    and draws each edit to that value with it: the learned word stands in the place of the value, the LoRA acts at a
    scale of the edit's severity. Either is a slider, for all classes, also those that it was not learned from, and is
    known to its own model alone. Placebos are drawn without a LoRA. It is worth while for a value that the editor knows
    badly by its own words; compare the losses on the card.

    The same command goes on where it was stopped, to the same bytes on one machine. Works with Stable Diffusion 1 and 2
    (InstructPix2Pix and img2img).

    Examples:
      counterforge learn runs/wardrobe --after snow --as token
      counterforge learn runs/wardrobe --after snow --as lora --rank 8 --out learned/snow-lora
      counterforge learn runs/wardrobe --after snow --as token --classes dress,bag,coat --start white --steps 100
      counterforge learn runs/mine --after "wet asphalt" --as token --gpu --out learned/asphalt
    """
    from cluster.phases.learn import learn_run
    from cluster.session.session import num_cores
    from engine.runfile.fields import Placement
    from engine.wording import duration

    out: Path = options.out or Path(FOLDER, re.sub(r"\W+", "_", options.after))
    on_gpu = Placement(device="cuda", num_gpus=1)
    placement = on_gpu if options.gpu else Placement(num_threads=num_cores())
    card = learn_run(open_directory(options.run), _request(options), out, placement)
    print(
        f"learned {card.value!r} from {card.num_pairs} pairs in {duration(card.seconds)}: loss "
        f"{card.loss_learned:.4f}, as it started {card.loss_start:.4f}, by the editor's own words {card.loss_own:.4f}"
    )
    print(f"in {out}; a run file takes it by\n  adapters: [{card.entry(str(out))}]")
    return 0


def _request(options: argparse.Namespace) -> "LearnRequest":
    from cluster.phases.learn import LearnRequest
    from engine.errors import SelectionError

    others = "rank" if options.kind == "token" else "vectors"
    if getattr(options, others) is not None:
        raise SelectionError(f"--{others} is nothing of --as {options.kind}: leave it out")
    return LearnRequest(
        after=options.after,
        kind=options.kind,
        classes=tuple(name.strip() for name in options.classes.split(",")) if options.classes else (),
        start=options.start,
        num_vectors=options.vectors or DEFAULT_VECTORS,
        rank=options.rank or DEFAULT_RANK,
        num_steps=options.steps,
        most_pairs=options.pairs,
        stage=options.stage,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return number
