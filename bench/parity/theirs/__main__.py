"""TRL's side: its own trainers on the tiny model, asked for the loss of one batch, and the gradient of every parameter.

    <environment with TRL>/bin/python -m bench.parity.theirs INPUTS RESULTS

Nothing of TRL's formulas is repeated here. A trainer is made as a user makes it (CPU, no mixed precision, no reports),
is given the batch through its own collator or rollout hook, and its own code makes advantages, references, KL, loss and
average. Every case runs twice: as shipped, and with float32 inside turned into float64 (`in_float64`), which shows what
is left of a difference when rounding is gone.
"""

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

os.environ |= {"TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

import torch
import trl
from safetensors.torch import save_file

from bench.parity.cases import CASES, Case
from bench.parity.theirs.common import Inputs, Result
from bench.parity.theirs.offline import kto, paired, reward, sft, without_reference
from bench.parity.theirs.online import GROUP_METHODS, on_policy, ppo
from bench.parity.theirs.patches import changed, in_float64

TRAINERS: dict[str, Callable[[Case, Inputs, str], Result]] = {
    "SFT": sft,
    "Reward": reward,
    **dict.fromkeys(("DPO", "DPO norm", "DPO + NLL", "IPO"), paired),
    "KTO": kto,
    **dict.fromkeys(("ORPO", "SimPO"), without_reference),
    **dict.fromkeys(GROUP_METHODS, on_policy),
    "PPO": ppo,
}


def main(inputs: Inputs, results: Path) -> None:
    """Write RESULTS/<case>.safetensors (as shipped) and <case>.float64.safetensors: PPO where TRL has it, else all."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "versions.json").write_text(json.dumps({"trl": trl.__version__}))
    has_ppo = find_spec("trl.experimental.ppo") is not None
    for case in CASES:
        if (case.method == "PPO") != has_ppo:
            continue
        for suffix, precision in {"": contextlib.nullcontext, ".float64": in_float64}.items():
            with precision(), changed(case.patches), tempfile.TemporaryDirectory() as folder:
                loss, gradients = TRAINERS[case.method](case, inputs, folder)
            tensors = {f"grad.{name}": gradient.contiguous() for name, gradient in gradients.items()}
            save_file({"loss": loss.double(), **tensors}, results / f"{case.name}{suffix}.safetensors")
            print(f"trl {trl.__version__}  {case.name}{suffix}  {loss.item():.12f}", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Inputs(Path(sys.argv[1])), Path(sys.argv[2]))
