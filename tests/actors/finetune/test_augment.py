"""Augmentation in fine-tuning: each image has its own blur, and RandAugment takes grey images."""

import random

import numpy as np
import torch

from actors.finetune.augment import blurred, randaugmented


def noise(count: int = 6, size: int = 16) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_blur_leaves_images_alone() -> None:
    assert torch.equal(blurred(noise(), 0.0, generator()), noise())


def test_images_lose_detail_but_keep_their_mean_colour() -> None:
    flat = torch.full((2, 3, 16, 16), 0.3)
    assert torch.allclose(blurred(flat, 0.1, generator()), flat, atol=1e-6)
    assert blurred(noise(), 0.1, generator()).std() < noise().std()


def test_pictures_with_their_channels_last_in_memory_are_blurred_alike() -> None:
    last = noise().contiguous(memory_format=torch.channels_last)
    assert torch.equal(blurred(last, 0.1, generator()), blurred(noise(), 0.1, generator()))


def test_each_image_has_its_own_blur_and_its_neighbours_do_not_matter() -> None:
    same = noise(1).expand(6, -1, -1, -1)
    output = blurred(same, 0.1, generator())
    assert len({round(float(image.std()), 4) for image in output}) == 6
    mixed = torch.cat([same[:1], noise(5)])
    assert torch.allclose(blurred(mixed, 0.1, generator())[0], output[0], atol=1e-6)


def test_the_generator_decides() -> None:
    assert torch.equal(blurred(noise(), 0.1, generator()), blurred(noise(), 0.1, generator()))
    assert not torch.equal(blurred(noise(), 0.1, generator()), blurred(noise(), 0.1, generator(2)))


def test_a_grey_image_is_augmented_as_its_colour_image_is() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (1, 20, 24), np.uint8)
    for seed in range(20):
        found = randaugmented(grey, random.Random(seed))
        assert found.shape == grey.shape
        assert np.array_equal(found, randaugmented(np.repeat(grey, 3, 0), random.Random(seed))[:1])
