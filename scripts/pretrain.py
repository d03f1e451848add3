"""Pretraining on one or many devices: `torchrun --nproc-per-node=8 scripts/pretrain.py --config cpc --out runs/cpc`.

The same command line as `speechkit pretrain`; under torchrun, and under SLURM's srun (see pretrain.slurm), the
processes, nodes and the strategy ddp are taken from the environment.
"""

import sys

from speechkit.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
