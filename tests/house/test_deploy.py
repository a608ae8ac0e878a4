"""The deploy files are what their tools expect; no cloud is asked."""

import shlex
from typing import Any

import pytest
from repository import ROOT
from ruamel.yaml import YAML

from cluster.cli.main import make_parser
from cluster.cli.watch import watch_node

DEPLOY = ROOT / "cluster" / "deploy"


def load(name: str) -> dict[str, Any]:
    return dict(YAML(typ="safe").load(DEPLOY / name))


def test_the_ray_cluster_file_passes_rays_own_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(load("aws.yaml")))


def test_a_misspelt_field_of_the_ray_cluster_file_is_caught() -> None:
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = load("aws.yaml")
    config["available_node_types"]["gpu_spot"]["max_worker"] = 8
    with pytest.raises(ValidationError, match="max_worker"):
        validate_config(prepare_config(config))


def test_both_clusters_start_without_gpus_and_leave_the_head_without_work() -> None:
    aws, job = load("aws.yaml"), load("kuberay-job.yaml")
    assert aws["available_node_types"]["gpu_spot"]["min_workers"] == 0
    assert aws["available_node_types"]["head"]["resources"]["CPU"] == 0
    spec = job["spec"]["rayClusterSpec"]
    assert spec["workerGroupSpecs"][0]["minReplicas"] == 0
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_each_worker_of_the_ray_cluster_is_watched_once_ray_runs_on_it() -> None:
    *_, start, watch = load("aws.yaml")["worker_start_ray_commands"]
    assert start.startswith("ray start")
    words = shlex.split(watch.partition(">")[0])
    assert words[:2] == ["nohup", "counterforge"]
    options = make_parser().parse_args(words[2:])
    assert (options.command, options.cloud) == (watch_node, "ec2")


def test_the_kubernetes_job_keeps_its_run_in_object_storage() -> None:
    entrypoint = load("kuberay-job.yaml")["spec"]["entrypoint"]
    assert "--out s3://" in entrypoint
