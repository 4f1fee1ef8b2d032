"""Train a network on a labelled data set: `python -m models.train`, see `models.training.command`."""

import sys

from models.training.command import run

if __name__ == "__main__":
    sys.exit(run())
