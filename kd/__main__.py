"""``python -m kd`` is ``kd``; torchrun starts processes by it."""

import sys

from kd.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
