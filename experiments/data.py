"""Says where this went."""

raise ImportError("expected a2d_jax.io.datasets, got experiments.data, its name before; write a2d_jax.io.datasets")
