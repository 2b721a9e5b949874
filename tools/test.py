"""`vitdet test` as a script: `python tools/test.py …`."""

import sys

from vitdet.cli import main

main(["test", *sys.argv[1:]])
