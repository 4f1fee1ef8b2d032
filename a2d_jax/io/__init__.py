"""What comes in (images, checkpoints) and what goes out (tables, detectors), always checked and never unpickled."""
