"""The old name of `experiments.speed`: importing it raises an error that gives the new name."""

raise ImportError("expected experiments.speed, got experiments.benchmark, its name before; write experiments.speed")
