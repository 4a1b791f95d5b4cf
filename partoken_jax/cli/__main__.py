"""`python -m partoken_jax.cli` is `partoken`."""

import sys

from partoken_jax.cli import main

sys.exit(main())
