"""`vitdet test` as a script: `python tools/test.py …`."""

import sys

from vitdet.cli import main

if __name__ == "__main__":  # workers that are spawned import this file
    main(["test", *sys.argv[1:]])
