"""Our side: one optimiser step of the product's own training functions, its loss and its gradient before clipping.

    python -m bench.parity.ours INPUTS RESULTS

Losses, advantages, masks, denominators and the cut into micro-batches are the product's; only the optimiser's step is
of no interest. Every step is cut into several micro-batches, where TRL gets its batch whole.
"""

import contextlib
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.parity.cases import CASES
from bench.parity.ours.common import Inputs
from bench.parity.ours.offline import DIRECT, directly, reward, sft
from bench.parity.ours.online import on_policy
from bench.parity.precision import float64_throughout


def main(inputs: Inputs, results: Path) -> None:
    """Write RESULTS/<case>.safetensors (as shipped) and <case>.float64.safetensors of all cases."""
    results.mkdir(parents=True, exist_ok=True)
    for case in CASES:
        run = {"SFT": sft, "Reward": reward}.get(case.method) or (directly if case.method in DIRECT else on_policy)
        for suffix, precision in {"": contextlib.nullcontext, ".float64": float64_throughout}.items():
            with precision():
                loss, gradients = run(case, inputs)
            tensors = {f"grad.{name}": gradient.contiguous() for name, gradient in gradients.items()}
            save_file({"loss": torch.tensor(loss), **tensors}, results / f"{case.name}{suffix}.safetensors")
            print(f"preflow  {case.name}{suffix}  {loss:.12f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    main(Inputs(Path(sys.argv[1])), Path(sys.argv[2]))
