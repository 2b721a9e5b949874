"""`vitdet predict` as a script: `python tools/predict.py …`."""

import sys

from vitdet.cli import main

main(["predict", *sys.argv[1:]])
