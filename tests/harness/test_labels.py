"""Classes in the proportions of the reference."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from harness.engine.labels import class_sequence
from harness.engine.sampling import class_counts, fresh_generator
from models.denoise import Denoise
from tests.harness.tiny_experiments import tiny

COUNTS = st.lists(st.integers(0, 50), min_size=1, max_size=8).filter(any).map(torch.tensor)


def test_equal_classes_take_turns() -> None:
    assert class_sequence(torch.tensor([7, 7, 7]), 8).tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


def test_as_many_images_as_the_reference_have_its_very_counts() -> None:
    counts = torch.tensor([100, 10, 0, 55])
    assert torch.bincount(class_sequence(counts, 165), minlength=4).tolist() == counts.tolist()


@given(COUNTS, st.integers(1, 300))
def test_every_prefix_has_the_proportions(counts: Tensor, images: int) -> None:
    drawn = class_sequence(counts, images)
    share = counts / counts.sum() * images
    assert len(drawn) == images
    assert (torch.bincount(drawn, minlength=len(counts)) - share).abs().max() <= len(counts) / 2 + 1
    assert torch.equal(class_sequence(counts, images + 17)[:images], drawn), "more images change no class"


def test_a_conditional_network_is_asked_for_the_references_classes(monkeypatch: object) -> None:
    experiment = tiny(model={"class_conditional": True})
    generator = fresh_generator(experiment)
    asked: list[Tensor] = []
    original = Denoise.__init__

    def spying(self: Denoise, *arguments: object, **options: object) -> None:
        asked.append(options["labels"])  # type: ignore[arg-type]
        original(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Denoise, "__init__", spying)  # type: ignore[attr-defined]
    generator.draw(0, torch.tensor([5, 0, 700]))
    expected = class_sequence(class_counts(experiment, 10), 701)
    assert asked[0].tolist() == expected[[5, 0, 700]].tolist()
    assert class_counts(experiment, 10).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
