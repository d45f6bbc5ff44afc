"""The command line of `examples/train_lm.py`."""

import argparse
from pathlib import Path

# What a checkpoint must share with the run that resumes from it; the text itself is compared too.
IDENTITY = tuple(
    "steps batch length width layers heads optimizer learning_rate weight_decay state_bits params seed".split()
)
# The peaks of the learning rates: for each the best of three, by the held-out loss of a run of 600 steps.
RATES = {"adamw": 2e-3, "normuon": 8e-3, "soap": 8e-3}
LONG = {"steps": 2400, "optimizer": "adamw"}
TINY = {"steps": 30, "batch": 4, "length": 32, "width": 32, "layers": 2, "heads": 2, "checkpoint_every": 10}


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Train a small transformer language model on bytes of text.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("text", nargs="?", help="a text file or a folder; without it, the sources of Python's standard library")
    add("--steps", type=count, default=600, help="updates in all")
    add("--batch", type=count, default=4, help="sequences per update")
    add("--length", type=count, default=128, help="bytes per sequence")
    add("--width", type=count, default=128, help="of the model")
    add("--layers", type=count, default=4, help="transformer blocks")
    add("--heads", type=count, default=4, help="attention heads per block")
    add("--optimizer", choices=RATES, default="normuon", help="the method")
    add("--learning-rate", type=float, help=f"the peak, reached after 5%% of the steps; by default {RATES}")
    add("--weight-decay", type=float, default=0.1, help="of the matrices")
    add("--state-bits", type=int, choices=[32, 8, 4], default=32, help="of each number that the optimizer keeps")
    add(
        "--params",
        choices=["float32", "bfloat16"],
        default="float32",
        help="bfloat16: their lower half is in the state",
    )
    add("--seed", type=int, default=0, help="of the initial parameters, the batches and the sample")
    add("--out", type=Path, default=Path("out/train_lm"), help="folder for the checkpoint, the picture and the sample")
    add("--checkpoint-every", type=count, default=200, metavar="STEPS", help="from one checkpoint to the next")
    add("--stop-at", type=count, metavar="STEP", help="end there, to resume later")
    add("--fresh", action="store_true", help="start anew even if the folder holds a checkpoint")
    add("--long", action="store_true", help="2400 steps of AdamW, in out/train_lm_long")
    add("--tiny", action="store_true", help="a model and a run of a few seconds, in out/train_lm_tiny")
    size = parser.parse_known_args(argv)[0]
    if size.long:
        parser.set_defaults(**LONG, out=Path("out/train_lm_long"))
    if size.tiny:
        parser.set_defaults(**TINY, out=Path("out/train_lm_tiny"))
    o = parser.parse_args(argv)
    o.learning_rate = RATES[o.optimizer] if o.learning_rate is None else o.learning_rate
    return o
