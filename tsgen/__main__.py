"""``python -m tsgen``: the command line."""

import sys

from tsgen.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
