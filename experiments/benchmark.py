"""Says where this went."""

raise ImportError("expected experiments.speed, got experiments.benchmark, its name before; write experiments.speed")
