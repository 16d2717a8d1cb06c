"""From a sweep file to jobs, here or on a cluster."""
