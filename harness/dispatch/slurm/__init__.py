"""Sweeps on SLURM, through submitit."""
