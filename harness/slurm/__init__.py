"""Sweeps on a SLURM cluster: settings, submission as job arrays, the queue, status, logs, retry and cancel."""
