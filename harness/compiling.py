"""torch.compile for the networks, never for a loop around them.

In training each U-ViT is compiled; in sampling the noise, and the methods that a step calls (`step`, or `encode` and
`denoise`), so that what turns a network's output into x̂ is fused with it. Shapes are static: a further batch size
compiles once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.utils._pytree import tree_map_only

from models.noise import normal
from models.uvit import UViT

RECOMPILE_LIMIT = 64
"""Shapes of one method: batch sizes, with and without guidance, refresh or not. Beyond it dynamo would go on uncompiled
without a word, so it raises."""


def prepare_dynamo() -> None:
    """Let a lack of compilation be an error rather than a slow run that is called compiled.

    What earlier networks have compiled is forgotten: they share their code, so it would count against the limit.
    """
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.fail_on_recompile_limit_hit = True


def compile_networks(model: torch.nn.Module) -> None:
    """Compile each network of `model` in place; names of parameters stay."""
    prepare_dynamo()
    for module in model.modules():
        if isinstance(module, UViT):
            module.compile(dynamic=False)


def compile_methods(model: Any, cuda_graphs: bool) -> None:
    """Compile what one step of sampling calls of `model`, in place.

    With `cuda_graphs` each call replays a captured graph. A replay overwrites what the one before has given, so what a
    call gives is copied: one image per step, the context once per refresh.
    """
    prepare_dynamo()
    names = ("encode", "denoise") if hasattr(model, "encode") else ("step",)
    mode = "reduce-overhead" if cuda_graphs else "default"
    for name in names:
        compiled = torch.compile(getattr(model, name), dynamic=False, mode=mode)
        object.__setattr__(model, name, _kept(compiled) if cuda_graphs else compiled)


def compiled_normal() -> Callable[..., Tensor]:
    """:func:`models.noise.normal`, its two hundred integer operations fused.

    The number of the draw goes in as a tensor, lest each step be compiled anew.
    """
    fused = torch.compile(normal, dynamic=False)

    def draw_normal(seed: int, indices: Tensor, draw: int, shape: Sequence[int], stream: int = 0) -> Tensor:
        drawn: Tensor = fused(seed, indices, torch.full((1,), draw, device=indices.device), tuple(shape), int(stream))
        return drawn

    return draw_normal


def _kept(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, Tensor.clone, method(*arguments, **options))

    return call


def cuda_graphs_skipped() -> int:
    """How often a compiled method could not be captured as a CUDA graph."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])
