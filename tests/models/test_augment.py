"""Random translation and flips."""

from __future__ import annotations

import torch
from torch import Tensor

from models.augment import augment, flip, translate
from models.objective import Randomness


def images(count: int, channels: int = 2, height: int = 4, width: int = 6) -> Tensor:
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(0))


def moved(image: Tensor, down: int, right: int, fill: float) -> Tensor:
    """One image (C, H, W), pixel by pixel."""
    result = torch.full_like(image, fill)
    _, height, width = image.shape
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                result[:, row, column] = image[:, row - down, column - right]
    return result


def test_each_image_moves_by_its_own_offset() -> None:
    offsets = torch.tensor([[0, 0], [1, 0], [0, -2], [-3, 5], [3, -1], [9, 9]])
    x = images(len(offsets))
    for fill in (0.0, -1.0):
        expected = [moved(image, int(o[0]), int(o[1]), fill) for image, o in zip(x, offsets, strict=True)]
        assert torch.equal(translate(x, offsets, fill), torch.stack(expected))


def test_flips_mirror_where_asked() -> None:
    x = images(3)
    flipped = flip(x, torch.tensor([True, False, True]))
    assert torch.equal(flipped[0], x[0].flip(-1))
    assert torch.equal(flipped[1], x[1])


def offsets_of(count: int, translation: int) -> Tensor:
    """The offsets that `augment` chose, read from where a single bright pixel lands."""
    x = torch.zeros(count, 1, 9, 9)
    x[:, :, 4, 4] = 1
    lands = augment(x, Randomness(0, 0, torch.arange(count)), translation).flatten(1).argmax(1)
    return torch.stack([lands // 9, lands % 9], dim=1) - 4


def test_every_whole_offset_is_equally_likely() -> None:
    offsets = offsets_of(10_000, 2)
    shares = torch.stack([(offsets == o).double().mean(0) for o in range(-2, 3)])
    assert (shares - 0.2).abs().max() < 0.02
    assert shares.sum(0).tolist() == [1, 1]
    assert abs((offsets[:, 0] * offsets[:, 1]).double().mean().item()) < 0.1


def test_half_are_flipped() -> None:
    x = images(4000)
    flipped = (augment(x, Randomness(0, 0, torch.arange(4000)), flips=True) == x.flip(3)).flatten(1).all(1)
    assert 0.46 < flipped.double().mean().item() < 0.54


def test_keyed_by_seed_step_and_position() -> None:
    x = images(1).expand(32, -1, -1, -1)
    whole = augment(x, Randomness(0, 3, torch.arange(32)), 2, True)
    part = augment(x[:8], Randomness(0, 3, torch.arange(16, 24)), 2, True)
    assert torch.equal(whole[16:24], part)
    assert not torch.equal(whole, augment(x, Randomness(0, 4, torch.arange(32)), 2, True))
    assert not torch.equal(whole, augment(x, Randomness(1, 3, torch.arange(32)), 2, True))


def test_nothing_asked_nothing_done() -> None:
    x = images(3)
    assert augment(x, Randomness(0, 0, torch.arange(3))) is x
