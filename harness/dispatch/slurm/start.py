"""What every rank of a SLURM job runs: ``python start.py FOLDER``, of the copy of the source that was submitted.

It is run by its path: `-m` may find other packages first, and PYTHONPATH cannot name a folder with a colon. From the
first line on signals are kept until :mod:`harness.dispatch.slurm.job` listens to them: SLURM may send the warning of
the time limit a minute early, and by default a signal ends the process.
"""

from __future__ import annotations

import signal
import sys


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    here, _, _ = __file__.rpartition("/")
    source, *_ = here.rsplit("/", 3)  # of SOURCE/harness/dispatch/slurm
    sys.path[:] = [source, *(folder for folder in sys.path if folder not in (here, source))]

    from pathlib import Path

    from harness.dispatch.slurm.job import run_submitted

    run_submitted(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
