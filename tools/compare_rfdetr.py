"""python tools/compare_rfdetr.py [MODEL …] [--modes eager bf16] [--no-train]: RF-DETR here and in its authors' package (pip install rfdetr)."""

import argparse

import torch

from vitdet.deploy.compare import MODES, compare

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["rf-detr-nano", "rf-detr-small"])
    parser.add_argument("--modes", nargs="*", choices=MODES, default=MODES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-train", dest="train", action="store_false")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    compare(options.models, rounds=options.rounds, modes=tuple(options.modes), train=options.train)
