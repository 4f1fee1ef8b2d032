"""Networks whose attack costs this project studies: plain Flax NNX, one file per family."""
