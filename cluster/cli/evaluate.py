"""The command `evaluate`: score any classifier on any labelled images."""

import argparse
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.cli.options import (
    Commands,
    add_command,
    add_json,
    import_plugins_from,
    print_json,
    share_with_interval,
)

if TYPE_CHECKING:
    from engine.runfile.probe import ProbeConfig

FUNCTION = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
MAX_GROUPS = 20


def add_commands(commands: Commands) -> None:
    """Add the command of this module."""
    parser = add_command(commands, "evaluate", evaluate)
    parser.add_argument("--model", required=True, metavar="MODEL", help="the classifier")
    parser.add_argument("--data", required=True, metavar="SOURCE", help="the labelled images")
    parser.add_argument(
        "--classes",
        metavar="NAMES",
        help="the classes of a function, or of a model without names, in the order of its outputs, comma-separated; "
        "default: those of the data",
    )
    parser.add_argument(
        "--restrict-classes",
        action="store_true",
        help="let the model choose among the data's classes alone, as ImageNet-R does; default: all that it knows",
    )
    parser.add_argument("--group-by", metavar="ATTRS", help="attributes to group by, comma-separated; default: all")
    parser.add_argument(
        "--train-data",
        metavar="SOURCE",
        help="its training images: groups without the usual attribute values of their class are a conflict",
    )
    parser.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="images in one forward pass (default: 64)"
    )
    parser.add_argument("--gpu", action="store_true", help="run on a GPU")
    parser.add_argument("--offline", action="store_true", help="never ask a model hub")
    add_json(parser)


def evaluate(options: argparse.Namespace) -> int:
    """Score any classifier on any labelled images, by groups.

    Accuracy with its interval, and by group of class and attributes, the worst first. Writes nothing.

    MODEL   a folder that save_pretrained wrote, a hub id, zoo/patient, or a function package.module:name, which gets
            a list of RGB images of PIL (and `classes`, if it takes that) and returns probabilities (num_images,
            num_classes), columns in the order of the data's classes (of folders: the sorted names) or of --classes
    SOURCE  a folder with one sub-folder a class, a .csv, .tsv or .jsonl (path, label, attributes), a WebDataset tar
            or a folder of them (of RUN/shards the sources), a saved Hugging Face dataset (of a DatasetDict the folder
            of one split), or wardrobe:heldout[:CORRELATION[:COUNT]]

    Examples:
      counterforge evaluate --model zoo/patient --data wardrobe:heldout
      counterforge evaluate --model runs/wardrobe/models/reinforced --data wardrobe:heldout:0.998 --json
      counterforge evaluate --model microsoft/resnet-50 --data birds.csv --group-by habitat,sex
      counterforge evaluate --model mine:predict --data photos --classes bag,boot,coat,shirt
    """
    from cluster.phases.evaluate import attribute_names, evaluate_model
    from engine.evaluation.groups import dominant_values
    from engine.sources import open_source
    from engine.sources.guess import parse_source

    import_plugins_from()
    source = parse_source(options.data)
    group_by = options.group_by.split(",") if options.group_by else None
    dominant = None
    if options.train_data:
        items = list(open_source(parse_source(options.train_data)).items())
        dominant = dominant_values(items, attribute_names(items, group_by))
    classes = [name.strip() for name in options.classes.split(",")] if options.classes else None
    result = evaluate_model(
        _config(options),
        source,
        classes=classes,
        restricted=options.restrict_classes,
        group_by=group_by,
        dominant=dominant,
        offline=options.offline,
    ).to_json()
    if options.json:
        print_json(result)
    else:
        print(*result_lines(result), sep="\n")
    return 0


def _config(options: argparse.Namespace) -> "ProbeConfig":
    from cluster.session.session import num_cores
    from engine.runfile.fields import ModelConfig, Placement
    from engine.runfile.probe import ProbeConfig

    is_function = FUNCTION.match(options.model) is not None
    return ProbeConfig(
        model=None if is_function else ModelConfig(name=options.model),
        callable=options.model if is_function else None,
        batch_size=max(options.batch_size, 1),
        placement=Placement(device="cuda", num_gpus=1) if options.gpu else Placement(num_threads=num_cores()),
    )


def result_lines(content: dict[str, Any]) -> list[str]:
    """Return the lines that show an evaluation: overall accuracy, then groups, the worst first."""
    lines = [f"accuracy       {_accuracy(content)}"]
    for name, title in (("worst_group", "worst group"), ("conflict", "conflict"), ("aligned", "aligned")):
        figure = content[name]
        if figure is not None and figure["n"]:
            whose = ""
            if name == "worst_group":
                whose = f", {_group_name(figure)}, lowest of {figure['num_groups']} groups"
            lines.append(f"{title:<14} {_accuracy(figure)}{whose}")
    groups = [group for group in content["groups"] if group["n"] >= content["min_n"]]
    if content["group_by"] and groups:
        lines.append(f"groups of class and {', '.join(content['group_by'])}, the worst first:")
        for group in sorted(groups, key=lambda group: group["accuracy"])[:MAX_GROUPS]:
            lines.append(f"  {_group_name(group):<36} {_accuracy(group)}")
        if len(groups) > MAX_GROUPS:
            lines.append(f"  and {len(groups) - MAX_GROUPS} better ones; --json has all")
    lines += _small_groups(content)
    lines += _outputs(content)
    lines += [f"not read: {count} images, {reason}" for reason, count in content["unreadable"].items()]
    return lines


def _small_groups(content: dict[str, Any]) -> list[str]:
    from engine.evaluation.groups import small_groups

    if (small := small_groups(content["groups"], content["min_n"])) is None:
        return []
    worst = ", ".join(f"{_group_name(group)} {group['correct']} of {group['n']}" for group in small.worst)
    num = f"{small.num_groups:,} group{'s' * (small.num_groups != 1)}"
    together = f"{_accuracy(vars(small))} in {num} of fewer than {content['min_n']}, which are not ranked"
    return [f"small groups   {together}; the worst: {worst}"]


def _outputs(content: dict[str, Any]) -> list[str]:
    """Return the lines on the classes that the answers are of."""
    lines = []
    number, num_data, num_others = content["model_classes"], len(content["classes"]), content["num_other_answers"]
    if content["restricted"]:
        trivial = ": with one class every answer is right" if num_data == 1 else ""
        lines.append(f"restricted     answers to the data's {num_data:,} of the model's {number:,} classes{trivial}")
    elif number > num_data:
        others = f"{num_others:,} answers are of others"
        lines.append(f"classes        {num_data:,} of the model's {number:,} are in the data, {others}")
    if content["taken_in_order"]:
        names = content["taken_in_order"]
        shown = ", ".join(f"{place} as {name!r}" for place, name in enumerate(names[:MAX_GROUPS]))
        lines.append(f"outputs        taken in order: {shown}{', ...' if len(names) > MAX_GROUPS else ''}")
    return [*lines, *([f"look at this   {content['wrong_order']}"] if content["wrong_order"] else [])]


def _group_name(group: Mapping[str, Any]) -> str:
    return " / ".join((group["class_name"], *group["values"].values()))


def _accuracy(figure: dict[str, Any]) -> str:
    return f"{share_with_interval(figure['accuracy'], figure['low'], figure['high'])} of {figure['n']:,} images"
