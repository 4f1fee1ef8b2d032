"""The demo, the benchmark, and scripts that reproduce a table or figure: run them as `python -m experiments.NAME`."""
