"""`python tools/benchmark.py CONFIG [--key value …]`: size, speed and memory of a model."""

import sys

from vitdet.cli import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
