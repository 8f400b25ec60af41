"""Command line of the course: `python -m foundations`."""

import sys

from foundations.cli import main

if __name__ == "__main__":
    sys.exit(main())
