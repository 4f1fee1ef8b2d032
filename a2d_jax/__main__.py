"""`python -m a2d_jax` is `a2d`."""

import sys

from a2d_jax.cli import main

sys.exit(main())
