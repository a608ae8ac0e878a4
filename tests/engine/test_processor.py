"""The name of a processor says what the last bits of results depend on."""

from pathlib import Path

import pytest

from engine.processor import processor

X86 = "processor\t: 0\nmodel name\t: AMD EPYC 9R14\nflags\t\t: fpu avx2 avx512f avx512_bf16 sse2\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2100.00\nFeatures\t: fp asimd sve bf16\nCPU part\t: 0xd40\n"


def test_it_names_the_model_and_the_instruction_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: X86)
    assert processor() == "AMD EPYC 9R14 (avx2, avx512f, avx512_bf16)"


def test_an_arm_processor_without_a_name_has_that_of_its_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda _: ARM)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor() == "aarch64 (asimd, sve, bf16)"
