"""Private names of other libraries: each that we use is listed here with its place, and is still there.

Where one is gone after an update, its users are named here at once, and not by a slow test that fails far from the
cause. Libraries are read as source, not imported, which would take ten seconds.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from repository import ROOT

from cluster.dataflow.stage_watch import StageWatch
from cluster.spot.drain import ADDRESS_FLAG, ID_FLAG

FLOORS = ("engine", "actors", "cluster")
# Public, for all their underscores: of named tuples and of os.
PUBLIC = {"_replace", "_asdict", "_exit"}
# By module of ours: the names, and where their library defines each (file, path in it); None where it is compiled.
USED = {
    "actors/editor/pipelines/drawing.py": {
        "_auto_resize": "diffusers/pipelines/flux/pipeline_flux_kontext.py FluxKontextPipeline.__call__._auto_resize",
    },
    "actors/editor/slots/packed.py": {
        "_C": None,
        "_nn": None,
        "_is_mkldnn_bf16_supported": None,
        "_reorder_linear_weight": None,
        "_linear_pointwise": None,
        "_convolution_pointwise": None,
    },
    "actors/language/cache.py": {
        "_attn_implementation": "transformers/configuration_utils.py PreTrainedConfig._attn_implementation",
    },
    "actors/language/slots.py": {
        "_from_model_config": "transformers/generation/configuration_utils.py GenerationConfig._from_model_config",
    },
    "actors/models/attention.py": {
        "_attn_implementation": "transformers/configuration_utils.py PreTrainedConfig._attn_implementation",
        "_attention_backend": "diffusers/models/transformers/transformer_flux.py FluxAttnProcessor._attention_backend",
        "_native_flash": "diffusers/models/attention_dispatch.py AttentionBackendName._NATIVE_FLASH",
    },
    "cluster/dataflow/stage_watch.py": {
        "_topology": "ray/data/_internal/execution/streaming_executor.py StreamingExecutor._topology",
    },
    "cluster/session/session.py": {
        "ray._private.node": "ray/_private/node.py Node",
        "_metrics_export_port": "ray/_private/worker.py init._metrics_export_port",
        "_system_config": "ray/_private/worker.py init._system_config",
        "_temp_dir": "ray/_private/worker.py init._temp_dir",
    },
    "cluster/spot/drain.py": {"ray._raylet": None},
    "cluster/studies/chaos/nodes.py": {"ray._private.node": "ray/_private/node.py Node"},
    "cluster/studies/chaos/fault_run.py": {"ray._private.node": "ray/_private/node.py Node"},
}
# What the test of the first list does not find by itself: names without an underscore that are no part of a library's
# documented interface, and methods that are overridden.
UNDOCUMENTED = {
    "cluster/session/session.py": [
        "ray/_private/node.py Node.start_monitor",
        "ray/_private/node.py Node.start_log_monitor",
        "ray/_private/node.py Node.start_api_server",
        "ray/dashboard/optional_deps.py",
        # Overridden.
        "ray/job_config.py JobConfig._runtime_env_has_working_dir",
        # Set in the environment, by the name that it holds.
        "ray/_private/ray_constants.py WORKER_PROCESS_SETUP_HOOK_ENV_VAR",
    ],
    "cluster/dataflow/stage_watch.py": [
        "ray/data/_internal/execution/interfaces/physical_operator.py PhysicalOperator.get_actor_info",
        "ray/data/_internal/execution/interfaces/physical_operator.py PhysicalOperator.metrics",
        "ray/data/_internal/actor_autoscaler/autoscaling_actor_pool.py ActorPoolInfo.running",
        "ray/data/_internal/execution/interfaces/op_runtime_metrics.py OpRuntimeMetrics.num_tasks_running",
    ],
    "cluster/phases/reinforce.py": [
        # Overridden.
        "ray/train/v2/api/data_parallel_trainer.py DataParallelTrainer._register_sigint_handler",
    ],
    "actors/finetune/checkpoint/resharding.py": [
        "deepspeed/runtime/engine.py DeepSpeedEngine.load_universal_checkpoint",
        "deepspeed/checkpoint/ds_to_universal.py main.args",
    ],
    # It asks deepspeed.ops for __compatible_ops__, which is made when it is first asked for.
    "actors/finetune/start.py": ["deepspeed/ops/__init__.py __getattr__"],
    "actors/finetune/checkpoint/safe_load.py": [
        "deepspeed/runtime/fp16/loss_scaler.py DynamicLossScaler",
        "deepspeed/runtime/zero/config.py ZeroStageEnum",
        "deepspeed/utils/tensor_fragment.py fragment_address",
    ],
}


def private(name: str) -> bool:
    return name.startswith("_") and name[1:2].isalpha() and name not in PUBLIC


def names_used(path: Path) -> Iterator[str]:
    """Yield a module's private names, but not those that it says of `self` too: they are of its own classes."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    own = {node.attr for node in attributes if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")}
    for node in nodes:
        match node:
            case ast.Attribute(attr=name) if private(name) and name not in own:
                yield name
            case ast.ImportFrom(module=str(module), names=aliases):
                yield from (alias.name for alias in aliases if private(alias.name))
                if any(map(private, module.split("."))):
                    yield module
            case ast.Import(names=aliases):
                yield from (alias.name for alias in aliases if any(map(private, alias.name.split("."))))
            case ast.keyword(arg=str(name)) if private(name):
                yield name
            case ast.Constant(value=str(name)) if name in strings_listed(path):
                yield name


def strings_listed(path: Path) -> set[str]:
    """Return the names that a module is known to give as text: to getattr, as keys of arguments or of settings."""
    return {name for name in USED.get(str(path.relative_to(ROOT)), {}) if private(name)}


@cache
def definitions(path: str) -> set[str]:
    """Return what a library's file defines: classes, functions, their parameters, variables, attributes of self."""
    library, _, rest = path.partition("/")
    spec = find_spec(library)
    assert spec is not None, library
    assert spec.origin is not None, library
    found: set[str] = set()

    def visit(node: ast.AST, inside: tuple[str, ...], owner: tuple[str, ...]) -> None:
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.ClassDef(name=name):
                    found.add(".".join((*inside, name)))
                    visit(child, (*inside, name), (*inside, name))
                    continue
                case ast.FunctionDef(name=name, args=arguments):
                    found.add(".".join((*inside, name)))
                    every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
                    found.update(".".join((*inside, name, argument.arg)) for argument in every)
                    visit(child, (*inside, name), owner)
                    continue
                case ast.Name(id=name, ctx=ast.Store()):
                    found.add(".".join((*inside, name)))
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.add(".".join((*owner, name)))
            visit(child, inside, owner)

    visit(ast.parse((Path(spec.origin).parent / rest).read_text(encoding="utf-8")), (), ())
    return found


def test_private_names_of_others_are_used_where_they_are_listed_and_nowhere_else() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for floor in FLOORS
        for path in sorted((ROOT / floor).rglob("*.py"))
        if (names := set(names_used(path)))
    }
    assert found == {path: set(names) for path, names in USED.items()}


def test_every_name_that_is_used_is_still_there() -> None:
    places = [(path, place) for path, names in USED.items() for place in names.values() if place is not None]
    places += [(path, place) for path, names in UNDOCUMENTED.items() for place in names]
    missing = []
    for path, place in places:
        file, _, name = place.partition(" ")
        if name not in {"", *definitions(file)}:
            missing.append(f"{path} needs {name} of {file}")
    assert not missing


def test_ray_data_calls_no_method_that_the_watch_of_its_stages_lacks() -> None:
    callback = definitions("ray/data/_internal/execution/execution_callback.py")
    methods = {name.partition(".")[2] for name in callback if name.count(".") == 1}
    assert methods <= set(dir(StageWatch))


def test_the_scheduler_of_a_node_is_started_with_the_words_by_which_it_is_found() -> None:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).with_name("_private").joinpath("services.py").read_text(encoding="utf-8")
    assert f'f"{ID_FLAG}{{' in text
    assert f'f"{ADDRESS_FLAG}{{' in text


def test_what_is_compiled_is_still_there() -> None:
    import torch
    from ray._raylet import GcsClient, InnerGcsClient
    from ray.core.generated.autoscaler_pb2 import DrainNodeReason

    assert "drain_node" in dir(InnerGcsClient)
    assert "__getattr__" in vars(GcsClient)  # it asks the inner one
    assert DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    operators = [name for name in USED["actors/editor/slots/packed.py"] if name not in {"_C", "_nn"}]
    assert [name for name in operators if not hasattr(torch.ops.mkldnn, name)] == []
    assert hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    assert "binary" in torch.ops.mkldnn._linear_pointwise.overloads()
