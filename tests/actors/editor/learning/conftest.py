"""What the tests of learning share: one thread, and a tiny InstructPix2Pix."""

from pathlib import Path

import pytest
from tiny_pipelines import save_stable_diffusion

from actors.models.device import fix_threads


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    fix_threads(1)


@pytest.fixture(scope="module")
def instruct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("models") / "instruct", "instruct")
