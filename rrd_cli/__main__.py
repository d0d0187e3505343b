"""`python -m rrd_cli` is `rrd`."""

from __future__ import annotations

import sys

from rrd_cli.app import main

if __name__ == "__main__":
    sys.exit(main())
