"""torch.compile for the networks, never for a loop around them.

What a method runs as a network is compiled, in training and in sampling, so that what turns its output into x̂ is
fused with it; in sampling the noise too. Shapes are static: a further batch size compiles once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.utils._pytree import tree_map_only

from harness.engine.compiled_files import remove_cut_libraries
from harness.engine.cpp_compiler import avoid_wrong_copies
from models.noise import normal

RECOMPILE_LIMIT = 64
"""Shapes of one method: batch sizes, with and without guidance, refresh or not. Beyond it dynamo would go on uncompiled
without a word, so it raises."""


def prepare_dynamo() -> None:
    """Make falling back to uncompiled code an error, rather than a slow run that is called compiled.

    What earlier networks have compiled is forgotten: they share their code, so it would count against the limit. Files
    that a killed process has left cut short are removed before they are loaded, and the C++ compiler is kept from
    making wrong code.
    """
    remove_cut_libraries()
    avoid_wrong_copies()
    torch.compiler.reset()
    torch._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    torch._dynamo.config.fail_on_recompile_limit_hit = True


class CompiledNetworks:
    """A :class:`models.method.RunNetwork` that compiles what it runs, each network once, whatever the method.

    With `cuda_graphs` each call replays a captured graph. A replay overwrites what the one before has given, so what a
    call gives is copied: one image per step, the context once per refresh.
    """

    def __init__(self, cuda_graphs: bool = False) -> None:
        prepare_dynamo()
        self.cuda_graphs = cuda_graphs
        self.networks: set[str] = set()
        """Names of the networks that were run, and so compiled."""
        self._compiled: dict[Callable[..., Any], Callable[..., Any]] = {}

    def __call__(self, name: str, function: Callable[..., Any], *inputs: Any) -> Any:
        self.networks.add(name)
        compiled = self._compiled.get(function)
        if compiled is None:
            mode = "reduce-overhead" if self.cuda_graphs else "default"
            compiled = self._compiled[function] = torch.compile(function, dynamic=False, mode=mode)
        if not self.cuda_graphs:
            return compiled(*inputs)
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map_only(Tensor, Tensor.clone, compiled(*inputs))


def compiled_normal() -> Callable[..., Tensor]:
    """:func:`models.noise.normal`, its two hundred integer operations fused.

    The number of the draw goes in as a tensor: an int would trigger a recompile at every step.
    """
    fused = torch.compile(normal, dynamic=False)

    def draw_normal(seed: int, indices: Tensor, draw: int, shape: Sequence[int], stream: int = 0) -> Tensor:
        drawn: Tensor = fused(seed, indices, torch.full((1,), draw, device=indices.device), tuple(shape), int(stream))
        return drawn

    return draw_normal


def cuda_graphs_skipped() -> int:
    """How often a compiled method could not be captured as a CUDA graph."""
    from torch._dynamo.utils import counters

    return int(counters["inductor"]["cudagraph_skips"])
