"""One thread per test process: the suite is quick because its networks are tiny, not because it is parallel."""

from __future__ import annotations

import gc
import os
import signal
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")  # the compiler's vectors are not tried out, by compiling
os.environ["HARNESS_CACHE"] = tempfile.mkdtemp(prefix="harness-cache-")  # no test reads what another run has left

if (
    signal.getsignal(signal.SIGINT) == signal.SIG_IGN
):  # of a shell's background job; commands inherit it, deaf to Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch

torch.set_num_threads(1)
gc.set_threshold(100_000, 50, 100)  # to look for garbage among torch's many objects takes a twentieth of the suite
