"""`preflow chat` and `preflow export`: what one does with a policy."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import AsJson
from flows.summary import say

CHAT_HELP = """Talk to a policy, or to two side by side.

MODEL is a registered policy (NAME, NAME@champion, NAME/3) or a folder; without it, the champion of this project. On a \
pipe every line is a question, but for empty ones and commands, and stdout has a line an answer: line breaks in it are \
written \\n, and it is empty where the question was refused. With --json it has a JSON object an answer: model, \
question, answer as it is (null, and refused says why), cut, forgotten.

[bold]Examples[/bold]

  preflow chat

  preflow chat policy/3 --versus policy@champion --temperature 0

  echo "say hello" | preflow chat data/05_sft/policy
"""

_Model = Annotated[str, typer.Argument(metavar="[MODEL]", show_default=False, help="policy, policy/3, or a folder")]


def chat(
    model: _Model = "",
    versus: Annotated[str, typer.Option(metavar="MODEL", show_default=False, help="a second one beside it")] = "",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token")] = 0.7,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="most tokens of an answer")] = 256,
    seed: Annotated[int, typer.Option(help="the same seed and questions give the same answers")] = 0,
    system: Annotated[str, typer.Option(metavar="TEXT", show_default=False, help="a system message")] = "",
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="one JSON object an answer and line")] = False,
) -> None:
    from flows.chat import chat as talk

    talk([model, *([versus] if versus else [])], temperature, max_new_tokens, seed, system, as_json, say)


EXPORT_HELP = """Write a policy as a plain Hugging Face folder, and print the vLLM command that serves it.

MODEL is a registered policy (NAME, NAME@champion, NAME/3) or a folder. DIR gets weights, tokenizer, chat template, \
generation config and a model card; a process without preflow loads it and must say the same before it is done.

[bold]Examples[/bold]

  preflow export policy@champion ../my-policy

  preflow export policy-lora/2 ../my-policy --merge
"""


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="policy, policy/3, or a folder")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder")],
    merge: Annotated[
        bool, typer.Option("--merge", metavar="", help="adapters into the weights; default: base and PEFT adapter")
    ] = False,
    as_json: AsJson = False,
) -> None:
    from flows.export import export as write

    done = write(model, folder, merge, say)
    if as_json:
        print(json.dumps(asdict(done)))
        return
    print(f"{done.name} is in {done.folder}" + (": base/ and adapter/" if done.layout == "adapter" else ""))
    print(f"checked on {done.checked} conversations: chat template and greedy answers are the policy's")
    print(f"serve it: {done.vllm}")
