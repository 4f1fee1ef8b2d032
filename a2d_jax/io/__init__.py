"""Inputs (images, checkpoints) and outputs (tables, detectors). Everything is checked, and no pickle can run code."""
