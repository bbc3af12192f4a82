"""The lab engine: models, training, measurement. It never imports the app."""

import logging
import os

__version__ = "0.1.0"

# A PyTorch thread that waits for the others spins for 300,000 rounds by default. Beside a busy browser that is ruinous:
# the one that spins holds the core that the one it waits for needs. 1,000 rounds cost nothing on a quiet machine
# (docs/decisions.md has the figures). The OpenMP library reads this once, when torch is loaded; a value that was set
# outside stays.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# Each import of bitsandbytes on a CPU asks for a package of kernels that nobody needs here.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
