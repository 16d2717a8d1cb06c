"""Benchmarking and ablation harness for Dual-Rate Diffusion."""
