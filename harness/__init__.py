"""Benchmarking and ablation harness for Dual-Rate Diffusion."""

import os

# Idle OpenMP threads sleep rather than spin, unless the user says otherwise: on a busy machine a spinning
# pool of two threads was measured 9 times slower than a sleeping one. To be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
