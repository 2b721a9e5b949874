"""`vitdet train` as a script: `python tools/train.py …`."""

import sys

from vitdet.cli import main

if __name__ == "__main__":  # workers that are spawned import this file
    main(["train", *sys.argv[1:]])
