"""The old name of `experiments.speed.waiting`: importing it raises an error that gives the new name."""

raise ImportError("expected experiments.speed.waiting, got experiments.waiting, its name before; write experiments.speed.waiting")
