"""What an attacker achieves who knows the detector: python -m experiments.adaptive."""
