"""Tables: what is measured of a trained network, once, for other trainings or samplers to use. Known without torch."""

from __future__ import annotations

TABLES: dict[str, int] = {"denoising_error": 1, "pair_error": 1}
"""By name, the number of its measurement: raise it when a change of the code changes a table's numbers."""
