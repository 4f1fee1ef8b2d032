"""Large jobs: a run folder that survives a kill, and the engines that work on it."""
