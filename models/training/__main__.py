"""`python -m models.training` is `python -m models.train`."""

import sys

from models.training.command import run

sys.exit(run())
