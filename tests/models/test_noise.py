"""Philox against the vectors published with Random123, and what a seed promises."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models import noise
from models.noise import ImageNoise, Stream, normal, philox, random_words, uniform

ONES = 0xFFFFFFFF
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox_of_ints(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 in Python's unbounded integers."""
    for _ in range(10):
        p0, p1 = counter[0] * 0xD2511F53, counter[2] * 0xCD9E8D57
        counter = [(p1 >> 32) ^ counter[1] ^ key[0], p1 & ONES, (p0 >> 32) ^ counter[3] ^ key[1], p0 & ONES]
        key = [(key[0] + 0x9E3779B9) & ONES, (key[1] + 0xBB67AE85) & ONES]
    return counter


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_philox_gives_the_published_words(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = (torch.tensor([word]) for word in counter)
    assert tuple(int(word) for word in philox((c0, c1, c2, c3), key)) == expected


def test_words_are_those_of_element_draw_index_and_stream() -> None:
    seed = 0x0123456789ABCDEF
    words = random_words(seed, torch.tensor([5, 4_000_000_000]), 7, 10, stream=3)
    for row, index in enumerate((5, 4_000_000_000)):
        for element in range(10):
            expected = philox_of_ints([element // 4, 7, index, 3], [seed & ONES, seed >> 32])[element % 4]
            assert int(words[row, element]) == expected


def test_image_noise_depends_on_seed_index_and_step_alone() -> None:
    whole = ImageNoise(9, range(64), (3, 5, 5))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    shuffled = ImageNoise(9, order, (3, 5, 5))
    alone = ImageNoise(9, [17], (3, 5, 5))
    for draw in (ImageNoise.initial, lambda n: n(0), lambda n: n(31)):
        assert torch.equal(draw(whole)[order], draw(shuffled))
        assert torch.equal(draw(whole)[17:18], draw(alone))


def test_a_samplers_draws_are_independent_of_each_other() -> None:
    noise = ImageNoise(0, range(2000), (16,))
    further = ImageNoise(0, range(2000), (16,), stream=100)
    draws = [noise.initial(), noise(0), noise(1), further.initial(), further(0)]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert abs((one * other).mean().item()) < 5 / math.sqrt(one.numel())


def test_an_element_does_not_depend_on_the_shape_around_it() -> None:
    indices = torch.arange(3)
    assert torch.equal(normal(1, indices, 2, (40,))[:, :7], normal(1, indices, 2, (7,)))


def test_a_draw_may_differ_from_image_to_image() -> None:
    indices, draws = torch.tensor([4, 5]), torch.tensor([8, 9])
    values = normal(1, indices, draws, (6,))
    for row in range(2):
        assert torch.equal(values[row : row + 1], normal(1, indices[row : row + 1], int(draws[row]), (6,)))


def test_normal_numbers_are_normal_and_independent() -> None:
    count, size = 4000, 16
    sets = {
        "first": normal(0, torch.arange(count), 0, (size,)),
        "next image": normal(0, torch.arange(count) + 1, 0, (size,)),
        "next draw": normal(0, torch.arange(count), 1, (size,)),
        "next stream": normal(0, torch.arange(count), 0, (size,), stream=1),
        "next seed": normal(1, torch.arange(count), 0, (size,)),
        "high word of the seed": normal(1 << 32, torch.arange(count), 0, (size,)),
        "next element": normal(0, torch.arange(count), 0, (size + 1,))[:, 1:],
    }
    bound = 5 / math.sqrt(count * size)
    for name, values in sets.items():
        moments = [values.pow(power).mean().item() for power in (1, 2, 3, 4)]
        assert moments == pytest.approx([0, 1, 0, 3], abs=10 * bound), name
        if name != "first":
            assert abs((sets["first"] * values).mean().item()) < bound, name
    below = (sets["first"] < torch.special.ndtri(torch.tensor(0.1))).float().mean().item()
    assert below == pytest.approx(0.1, abs=bound)


def test_uniform_numbers_are_uniform() -> None:
    values = uniform(0, torch.arange(20_000), 0, ()).sort().values
    steps = torch.arange(20_000) / 20_000
    assert (values - steps).abs().max() < 1.9 / math.sqrt(20_000)  # Kolmogorov and Smirnov, p ≈ 0.001


@pytest.mark.parametrize("word", [0, ONES])
def test_extreme_words_give_finite_numbers_inside_the_range(word: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(seed: int, indices: Tensor, draw: int, elements: int, stream: int = 0) -> Tensor:
        return torch.full((len(indices), elements), word)

    monkeypatch.setattr(noise, "random_words", words)
    assert torch.isfinite(normal(0, torch.arange(2), 0, (4,))).all()
    assert ((uniform(0, torch.arange(2), 0, (4,)) > 0) & (uniform(0, torch.arange(2), 0, (4,)) < 1)).all()


def test_streams_are_distinct() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream)


@pytest.mark.parametrize("shape", [(), (0,), (1,), (1, 3, 3)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    assert uniform(0, torch.arange(5), 0, shape).shape == (5, *shape)
    assert normal(0, torch.arange(5), 0, shape).shape == (5, *shape)
