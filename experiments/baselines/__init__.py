"""Detectors that the paper compares with, under one contract: fitted on images, they score images."""
