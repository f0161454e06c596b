"""Data sets that are known by their fields, told in plainer shapes.

GSM8K                     question, answer with "#### 72" at its end: prompt, worked solution, answer
its example solutions     question, ground_truth, solutions that are correct or not: ratings
SVAMP                     Body, Question, Answer, Equation: prompt, answer
self-instruct             instruction, instances of input and output: an instruction each
lm-human-preferences      query, sample0 to sample3, best: a set of which one is better than the others
summarize_from_feedback   info, two summaries, choice: a pair

and OpenAssistant's trees (`tasks.shapes.trees`).
"""

import re
from collections.abc import Iterator
from typing import Any

from tasks.shapes import trees
from tasks.shapes.fields import Malformed, Value, text, type_of

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")


def unfolded(kind: str, value: Value) -> Iterator[Value]:
    """The rows that a line holds. Raises Malformed."""
    if trees.is_tree(value):
        yield from trees.unfolded(kind, value)
    elif isinstance(value.get("instances"), list) and "instruction" in value:
        yield from _instances(value)
    elif {"Body", "Question", "Answer"} <= value.keys():
        yield _svamp(value)
    elif final := _final(value.get("answer")):
        yield _gsm8k(value, final)
    elif kind == "ratings" and {"question", "ground_truth"} <= value.keys():
        yield from _solutions(value)
    elif {"query", "sample0", "best"} <= value.keys():
        yield _best_of_samples(value)
    elif {"info", "summaries", "choice"} <= value.keys():
        yield _summaries(value)
    else:
        yield value


def _instances(value: Value) -> Iterator[Value]:
    rest = {key: item for key, item in value.items() if key != "instances"}
    for instance in value["instances"]:
        if not isinstance(instance, dict):
            raise Malformed(f"instances: expected objects with input and output, found {type_of(instance)}")
        yield rest | instance


def _final(answer: Any) -> str:
    """What stands behind #### in the last line; nothing where there is none."""
    last = answer.rstrip().rsplit("\n", 1)[-1] if isinstance(answer, str) else ""
    return last.removeprefix("####").strip() if last.startswith("####") else ""


def _gsm8k(value: Value, final: str) -> Value:
    """The notes for the calculator are taken out of what is learnt; the line with the answer stays, it is asked for."""
    solution = _CALCULATOR.sub("", text(value, "answer"))
    return {"completion": solution, **value, "answer": final, "verifier": "number"}


def _solutions(value: Value) -> Iterator[Value]:
    for name, given in value.items():
        if isinstance(given, dict) and {"solution", "is_correct"} <= given.keys():
            answer = _CALCULATOR.sub("", text(given, "solution"))
            yield {"prompt": value["question"], "completion": answer, "label": given["is_correct"], "annotator": name}


def _svamp(value: Value) -> Value:
    """The equation is kept beside the answer, which it must give."""
    body, answer = text(value, "Body").strip(), value["Answer"]
    if answer is None or answer == "":
        raise Malformed("Answer is missing")
    stop = "." if body and body[-1].isalnum() else ""
    found = {"prompt": f"{body}{stop} {text(value, 'Question').strip()}", "answer": answer, "verifier": "number"}
    meta = {"equation": value["Equation"]} if isinstance(value.get("Equation"), str) else {}
    shown = str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)
    return found | {"completion": shown, "meta": meta}


def _best_of_samples(value: Value) -> Value:
    names = sorted((name for name in value if re.fullmatch(r"sample\d+", name)), key=lambda name: int(name[6:]))
    best: Any = value["best"]
    if not isinstance(best, int) or not 0 <= best < len(names):
        raise Malformed(f"best: expected one of 0 to {len(names) - 1}, found {best!r:.40}")
    ranks = [int(index != best) for index in range(len(names))]
    return {"prompt": text(value, "query"), "completions": [text(value, name) for name in names], "ranks": ranks}


def _summaries(value: Value) -> Value:
    info, summaries, choice = value["info"], value["summaries"], value["choice"]
    fits = isinstance(info, dict) and isinstance(summaries, list) and len(summaries) == 2 and choice in (0, 1)
    if not fits or not all(isinstance(summary, dict) for summary in summaries):
        raise Malformed("expected info, two summaries and a choice of 0 or 1")
    post = next((name for name in ("post", "article") if info.get(name) is not None), "post")
    extra = value.get("extra") if isinstance(value.get("extra"), dict) else {}
    return {
        "prompt": text(info, post),
        "chosen": text(summaries[int(choice)], "text"),  # 1.0 where a table had to hold missing ones too
        "rejected": text(summaries[1 - int(choice)], "text"),
        "annotator": value.get("worker"),
        "confidence": (extra or {}).get("confidence"),
    }
