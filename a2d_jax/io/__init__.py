"""What comes in (images, checkpoints) and what goes out (tables, detectors): always checked, and no code out of a pickle."""
