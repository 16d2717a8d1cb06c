"""Compiled networks in bfloat16 on a CPU give what uncompiled ones give: the C++ compiler makes no wrong code of them.

Widths from 64 on and 64 tokens are the least that wrong code was made of. Whole trainings with such levels are
compiled, and held against what they are uncompiled, where the miniatures run (``tools/miniatures.py``).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._inductor import config as inductor
from torch._inductor import cpp_builder

from harness.engine.compiling import CompiledNetworks
from harness.engine.cpp_compiler import COPY_BY_CALL, avoid_wrong_copies

needs_compiler = pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
WIDTH, SIDE = 64, 8


@needs_compiler
def test_a_layer_norm_over_the_tokens_of_a_convolution_is_the_same_compiled() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, WIDTH, SIDE, SIDE, generator=generator).bfloat16().to(memory_format=torch.channels_last)
    position = torch.randn(WIDTH, SIDE, SIDE, generator=generator)

    def norm(image: Tensor, position: Tensor) -> Tensor:
        return F.layer_norm((image.float() + position).flatten(2).transpose(1, 2), (WIDTH,))

    compiled = CompiledNetworks()("norm", norm, image, position)
    torch.testing.assert_close(compiled, norm(image, position), rtol=0, atol=1e-5)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """GCC on x86, as torch finds it; put back afterwards."""
    monkeypatch.setattr(cpp_builder, "is_gcc", lambda: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with inductor.patch({"cpp.cxx": (None, "g++")}):
        yield monkeypatch


@needs_compiler
def test_gcc_on_x86_is_given_the_option_once(compiler: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        avoid_wrong_copies()
        assert inductor.cpp.cxx == (f"g++ {COPY_BY_CALL}",)


@needs_compiler
def test_other_compilers_and_processors_are_left_alone(compiler: pytest.MonkeyPatch) -> None:
    compiler.setattr("platform.machine", lambda: "aarch64")
    avoid_wrong_copies()
    compiler.setattr("platform.machine", lambda: "x86_64")
    compiler.setattr(cpp_builder, "is_gcc", lambda: False)
    avoid_wrong_copies()
    assert inductor.cpp.cxx == (None, "g++")


@needs_compiler
def test_a_torch_that_passes_no_options_is_left_alone_and_told_of(
    compiler: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def program_alone() -> str:
        if " " in inductor.cpp.cxx[-1]:
            raise cpp_builder.exc.InvalidCxxCompiler
        return str(inductor.cpp.cxx[-1])

    compiler.setattr(cpp_builder, "get_cpp_compiler", program_alone)
    avoid_wrong_copies()
    assert inductor.cpp.cxx == (None, "g++")
    assert "set CXX to clang++" in caplog.text
