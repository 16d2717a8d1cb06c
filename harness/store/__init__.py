"""Results on disk: identity, records, leases, weights, checkpoints, provenance."""
