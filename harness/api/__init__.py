"""The harness from Python: what ``import harness`` gives, for notebooks and scripts.

::

    import harness

    study = harness.load_sweep("quickstart", set={"train.steps": 100})
    study.run()
    study.report()  # a pandas DataFrame
    study.sample("dual-rate", images=16)  # uint8 (16, height, width, channels)

The commands and these calls do the same to the same folder of results: either goes on from what the other has left.
What a person can put right is raised as :class:`harness.HarnessError`.
"""

from __future__ import annotations

from harness.api.study import RunFailed, Study, load_report, load_sweep
from harness.errors import HarnessError

__all__ = ["HarnessError", "RunFailed", "Study", "load_report", "load_sweep"]
