"""The command `learn`: teach an editor a new word from the accepted edits of a run."""

import argparse
import re
from pathlib import Path

from cluster.cli.options import Commands, add_command, add_run_directory, open_directory

DEFAULT_STEPS, DEFAULT_VECTORS, DEFAULT_PAIRS = 200, 4, 500
FOLDER = "learned"


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "learn", learn)
    add_run_directory(parser)
    parser.add_argument(
        "--after", required=True, metavar="VALUE", help="the value of the edits to learn from, such as snow"
    )
    parser.add_argument(
        "--as", required=True, choices=("token",), dest="kind", help="token: a new word of the text encoder"
    )
    parser.add_argument("--classes", metavar="a,b,c", help="learn from these classes alone; default: from all")
    parser.add_argument(
        "--start", metavar="WORD", help="the word that the new one starts as and whose norm it keeps; default: VALUE"
    )
    parser.add_argument(
        "--steps", type=_positive, default=DEFAULT_STEPS, metavar="N", help=f"steps (default: {DEFAULT_STEPS})"
    )
    parser.add_argument(
        "--vectors",
        type=_positive,
        default=DEFAULT_VECTORS,
        metavar="N",
        help=f"tokens of the word (default: {DEFAULT_VECTORS})",
    )
    parser.add_argument(
        "--pairs",
        type=_positive,
        default=DEFAULT_PAIRS,
        metavar="N",
        help=f"learn from this many pairs at most (default: {DEFAULT_PAIRS})",
    )
    parser.add_argument("--stage", metavar="NAME", help="the editor that learns, where the run has several")
    parser.add_argument("--gpu", action="store_true", help="learn on a GPU")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help=f"folder of the word (default: {FOLDER}/VALUE)")


def learn(options: argparse.Namespace) -> int:
    """Teach an editor a new word from the accepted edits of a run.

    Textual inversion: from pairs of a source and an accepted edit whose value (what the picture has afterwards) is
    VALUE, a few vectors of the editor's text encoder are learned; all else of the editor stays as it is. Only edits of
    train sources at severity 1 are learned from, whichever editor drew them. RUN is only read.

    The folder gets learned.safetensors and README.md, which says what it was learned from and what that cost. In a run
    file the editor then takes it by

      stages:
        editor: {kind: editor, ..., adapters: [{value: snow, path: learned/snow}]}

    and draws each edit to that value with the learned word in its place. Severity scales it as any word, so that it is
    a slider, for all classes, also those that it was not learned from. A word is known to its own model alone. It is
    worth while for a value that the editor knows badly by its own words; compare the losses on the card.

    The same command goes on where it was stopped, to the same bytes on one machine. Works with Stable Diffusion 1 and 2
    (InstructPix2Pix and img2img), as they have one text encoder of CLIP.

    Examples:
      counterforge learn runs/wardrobe --after snow --as token
      counterforge learn runs/wardrobe --after snow --as token --classes dress,bag,coat --start white --steps 100
      counterforge learn runs/mine --after "wet asphalt" --as token --gpu --out learned/asphalt
    """
    from cluster.phases.learn import LearnRequest, learn_run
    from cluster.session.session import num_cores
    from engine.runfile.fields import Placement
    from engine.wording import duration

    out: Path = options.out or Path(FOLDER, re.sub(r"\W+", "_", options.after))
    request = LearnRequest(
        after=options.after,
        classes=tuple(name.strip() for name in options.classes.split(",")) if options.classes else (),
        start=options.start,
        num_vectors=options.vectors,
        num_steps=options.steps,
        most_pairs=options.pairs,
        stage=options.stage,
    )
    on_gpu = Placement(device="cuda", num_gpus=1)
    placement = on_gpu if options.gpu else Placement(num_threads=num_cores())
    card = learn_run(open_directory(options.run), request, out, placement)
    print(
        f"learned {card.value!r} from {card.num_pairs} pairs in {duration(card.seconds)}: loss "
        f"{card.loss_learned:.4f}, as it started {card.loss_start:.4f}, by the editor's own words {card.loss_own:.4f}"
    )
    print(f"in {out}; a run file takes it by\n  adapters: [{card.entry(str(out))}]")
    return 0


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return number
