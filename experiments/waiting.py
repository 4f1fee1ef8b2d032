"""Says where this went."""

raise ImportError("expected experiments.speed.waiting, got experiments.waiting, its name before; write experiments.speed.waiting")
