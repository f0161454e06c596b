"""How others load an export: a few lines of transformers (and PEFT), and the command of vLLM."""

import shlex
from dataclasses import dataclass
from pathlib import Path

LORA_RANKS = (8, 16, 32, 64, 128, 256, 512)
"""What vLLM takes as --max-lora-rank."""


@dataclass(frozen=True)
class Layout:
    """What lies in an export, as far as whoever loads it must know."""

    rank: int
    """Rank of the adapter in `adapter/`, on the model in `base/`; 0 where the folder is one model."""
    room: int
    """Longest sequence of the model in tokens."""
    nf4: str = ""
    """The precision that an adapter's base computes in where its weights are kept in 4 bits (QLoRA), "" elsewhere."""
    own_code: bool = False
    """The model brings Python of its own."""


_EXAMPLE = """{imports}

{before}tokenizer = AutoTokenizer.from_pretrained({model})
model = AutoModelForCausalLM.from_pretrained({how})
{after}ids = tokenizer.apply_chat_template(
    [{{"role": "user", "content": "Hello!"}}], add_generation_prompt=True, return_tensors="pt", return_dict=True
)
said = model.generate(**ids, do_sample=True, temperature=1.0, top_k=0, max_new_tokens=64)
print(tokenizer.decode(said[0, ids["input_ids"].shape[1]:], skip_special_tokens=True))
"""
_NF4 = """nf4 = BitsAndBytesConfig(  # the 4 bits that the adapter was trained on
    load_in_4bit=True,
    bnb_4bit_quant_type="nf4",
    bnb_4bit_use_double_quant=True,
    bnb_4bit_compute_dtype="{dtype}",
)
"""


def example(layout: Layout, folder: str) -> str:
    """A program that loads `folder` and has it answer."""
    names = ["AutoModelForCausalLM", "AutoTokenizer", *["BitsAndBytesConfig"] * bool(layout.nf4)]
    peft = "from peft import PeftModel\n" if layout.rank else ""
    how = [f'"{folder}/base"' if layout.rank else f'"{folder}"']
    how += ["trust_remote_code=True"] * layout.own_code
    model, how = ", ".join(how), [*how, *["quantization_config=nf4"] * bool(layout.nf4)]
    return _EXAMPLE.format(
        imports=f"{peft}from transformers import {', '.join(names)}",
        before=_NF4.format(dtype=layout.nf4) if layout.nf4 else "",
        model=model,
        how=", ".join(how),
        after=f'model = PeftModel.from_pretrained(model, "{folder}/adapter")\n' if layout.rank else "",
    )


def vllm(layout: Layout, folder: Path, name: str) -> str:
    """The command that serves `folder` as `name`."""
    words = ["vllm", "serve", str(folder / "base" if layout.rank else folder), "--max-model-len", str(layout.room)]
    words += ["--trust-remote-code"] * layout.own_code
    if not layout.rank:
        return shlex.join([*words, "--served-model-name", name])
    if layout.nf4:
        words += ["--quantization", "bitsandbytes", "--dtype", layout.nf4]
    most = next((one for one in LORA_RANKS if one >= layout.rank), layout.rank)
    lora = ["--enable-lora", "--max-lora-rank", str(most), "--lora-modules", f"{name}={folder / 'adapter'}"]
    return shlex.join([*words, *lora])
