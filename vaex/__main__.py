"""``python -m vaex``."""

import sys

from vaex.cli import main

if __name__ == "__main__":
    sys.exit(main())
