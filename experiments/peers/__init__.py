"""Attacks beside their peers: success and distance of ours and of an independent implementation, on the same images and weights."""
