"""Figures of large jobs: what a kill costs, what parts cost, memory, shares, and the plan beyond one machine."""
