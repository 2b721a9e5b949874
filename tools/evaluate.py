"""`vitdet evaluate` as a script: `python tools/evaluate.py …`."""

import sys

from vitdet.cli import main

main(["evaluate", *sys.argv[1:]])
