"""Scripts that reproduce a table or figure, the demo and the benchmark: run as `python -m experiments.NAME`."""
