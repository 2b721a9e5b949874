"""`vitdet evaluate` as a script: `python tools/evaluate.py …`."""

import sys

from vitdet.cli import main

if __name__ == "__main__":  # workers that are spawned import this file
    main(["evaluate", *sys.argv[1:]])
