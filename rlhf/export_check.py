"""Load an exported folder as a stranger would, with transformers (and PEFT) alone, and say where it differs.

    python -I export_check.py MODEL EXPECTED.json [ADAPTER]

EXPECTED.json is what `rlhf.export.expectations` says of the policy before it was exported. Prints one JSON object,
{"cases": n, "differences": [sentence, …]}. Nothing of this project is imported.
"""

import json
import sys
from pathlib import Path
from typing import Any

TIE = 1e-3
"""Logits that are this close may change places where sums are rounded otherwise."""
ROUNDINGS = 4
"""The same in units in the last place of the largest logit, which in bfloat16 are far coarser than `TIE`: adapters that
are added as one are rounded once, and one by one once each."""


def check(folder: Path, expected: dict[str, Any], adapter: Path | None) -> list[str]:
    """What the folder does otherwise, a sentence each."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=_own_code(folder))
    model = _model(folder, expected["nf4"], adapter)
    found = []
    for number, case in enumerate(expected["cases"], start=1):
        ids = list(tokenizer.apply_chat_template(case["messages"], add_generation_prompt=True, return_dict=False))
        if ids != case["ids"]:
            found.append(f"conversation {number}: the chat template gives {ids}, expected {case['ids']}")
        elif difference := _greedy_difference(model, case, expected["tokens"]):
            found.append(f"conversation {number}: {difference}")
        text = tokenizer.decode(case["greedy"], skip_special_tokens=True)
        if text.strip() != case["text"].strip():  # a template may have the answer begin with a blank
            found.append(f"conversation {number}: the answer decodes to {text!r}, expected {case['text']!r}")
    return found


def _model(folder: Path, nf4: str, adapter: Path | None) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    how: dict[str, Any] = {}
    if nf4:
        how["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=nf4,
        )
    own_code = _own_code(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, trust_remote_code=own_code, **how)
    for part in model.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False  # weights packed anew are rounded otherwise
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return model.eval()


def _own_code(folder: Path) -> bool:
    """Whether code came with the policy; the user trusted it when it was trained."""
    return "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _greedy_difference(model: Any, case: dict[str, Any], tokens: int) -> str:
    import torch

    given = torch.tensor([case["ids"]], device=model.device)
    with torch.inference_mode():
        whole = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), do_sample=False, max_new_tokens=tokens
        )
    said, wanted = whole[0, given.shape[1] :].tolist(), case["greedy"]
    if said == wanted:
        return ""
    place = next((at for at, (one, other) in enumerate(zip(said, wanted)) if one != other), None)
    if place is None:
        return f"it says {len(said)} tokens, expected {len(wanted)}: it stops elsewhere"
    with torch.inference_mode():
        logits = model(whole[:, : given.shape[1] + place]).logits[0, -1]
    gap = float(logits[said[place]].double() - logits[wanted[place]].double())
    tie = max(TIE, ROUNDINGS * torch.finfo(logits.dtype).eps * float(logits.abs().max()))
    return "" if abs(gap) < tie else f"token {place + 1} is {said[place]}, expected {wanted[place]}, {gap:.3g} below it"


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    differences = check(Path(sys.argv[1]), given, Path(sys.argv[3]) if len(sys.argv) > 3 else None)
    print(json.dumps({"cases": len(given["cases"]), "differences": differences}))
