"""`vitdet predict` as a script: `python tools/predict.py …`."""

import sys

from vitdet.cli import main

if __name__ == "__main__":  # workers that are spawned import this file
    main(["predict", *sys.argv[1:]])
