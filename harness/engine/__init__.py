"""What a job does: build, train, draw, measure."""
