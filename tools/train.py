"""`vitdet train` as a script: `python tools/train.py …`."""

import sys

from vitdet.cli import main

main(["train", *sys.argv[1:]])
