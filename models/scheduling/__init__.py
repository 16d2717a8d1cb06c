"""When to refresh and where to step: errors measured on pairs of times, what a schedule is worth, the best ones."""
