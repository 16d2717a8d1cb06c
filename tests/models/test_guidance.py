"""Classifier-free guidance: its algebra, and when it applies."""

from __future__ import annotations

import pytest
import torch

from models.guidance import Guidance, with_unconditional


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 1.8, 7.5])
def test_combination(scale: float) -> None:
    conditional, unconditional = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    expected = unconditional + scale * (conditional - unconditional)
    assert torch.allclose(Guidance(scale).combine(conditional, unconditional), expected)


def test_active_inside_the_interval_only() -> None:
    levels = [80.0, 5.0, 1.0, 0.2, 0.1]
    assert Guidance(2.0).active(levels) == (True,) * 5
    assert Guidance(2.0, (0.2, 5.0)).active(levels) == (False, True, True, True, False)
    assert Guidance(0.0, (0.5, 2.0)).active(levels) == (False, False, True, False, False)


def test_a_scale_of_1_costs_nothing() -> None:
    assert Guidance(1.0, (0.0, 100.0)).active([1.0, 2.0]) == (False, False)


def test_null_labels_follow() -> None:
    assert with_unconditional(torch.tensor([3, 1]), 10).tolist() == [3, 1, 10, 10]
