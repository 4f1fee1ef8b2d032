"""Attacks compared with independent implementations: success and distance, on the same images and weights."""
