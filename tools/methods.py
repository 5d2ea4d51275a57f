"""``kd methods``, from a clone."""

import sys

from kd.commands.main import main

if __name__ == "__main__":
    sys.exit(main(["methods", *sys.argv[1:]]))
