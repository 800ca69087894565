"""One file per resource; each translates HTTP and nothing else."""
