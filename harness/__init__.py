"""Benchmarking and ablation harness for Dual-Rate Diffusion."""

import os

# Idle OpenMP threads sleep rather than spin, unless the user says otherwise: on a machine that is shared with other work
# a spinning pool of two threads was measured 9 times slower than a sleeping one. It must be set before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
