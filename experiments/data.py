"""The old name of `a2d_jax.io.datasets`: importing it raises an error that gives the new name."""

raise ImportError("expected a2d_jax.io.datasets, got experiments.data, its name before; write a2d_jax.io.datasets")
