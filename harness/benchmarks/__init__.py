"""Programs that measure the harness itself: `python -m harness.benchmarks.speed`, `….training`."""
