"""torch.compile's C++ is compiled without a pass of GCC's that makes wrong code of it on x86.

Seen with GCC 11.3 and 12.2 at -O3 and their generic tuning: where it copies a block by `rep movsq`, it removes the
stores that fill the block as if they were dead. torch's transposition of a 32×32 tile of bfloat16 ends in such a copy.
A layer norm over the tokens of a convolution's output reads it: at widths from 64 on the stream is nan, or worse,
finite and wrong. Copies by memcpy are not affected, nor is what other tunings and -O2 make of the same file.
"""

from __future__ import annotations

import logging
import platform

from torch._inductor import config, cpp_builder
from torch._inductor.exc import InvalidCxxCompiler

log = logging.getLogger("harness")

COPY_BY_CALL = "-mstringop-strategy=libcall"
"""GCC's option, on x86, to copy blocks of more than a few words by a call of memcpy."""


def avoid_wrong_copies() -> None:
    """Have torch.compile's C++ copy blocks by memcpy. Other compilers and processors are left as they are."""
    if platform.machine() not in ("x86_64", "AMD64") or not _is_gcc():
        return
    compiler = cpp_builder.get_cpp_compiler()
    if COPY_BY_CALL in compiler:
        return
    before, config.cpp.cxx = config.cpp.cxx, (f"{compiler} {COPY_BY_CALL}",)  # type: ignore[assignment]
    try:
        cpp_builder.get_cpp_compiler()
    except InvalidCxxCompiler:  # this torch takes a program alone, without options
        config.cpp.cxx = before
        log.warning(
            "%s may make wrong code of networks that are compiled for a CPU, and this torch passes no option to it: "
            "set CXX to clang++, or install a newer torch",
            compiler,
        )


def _is_gcc() -> bool:
    """Whether torch finds a C++ compiler, and it is GCC."""
    try:
        return bool(cpp_builder.is_gcc())
    except InvalidCxxCompiler:  # a GPU needs none; a CPU's networks say so when they are compiled
        return False
