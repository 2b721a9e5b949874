"""`vitdet data` as a script: `python tools/data.py get|…`."""

import sys

from vitdet.cli import main

if __name__ == "__main__":  # workers that are spawned import this file
    main(["data", *sys.argv[1:]])
