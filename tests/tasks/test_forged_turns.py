"""Hostile texts in every form of file: they come through the readers as they are, and forge a turn in no template."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlhf.chat import Chat
from rlhf.records import read_rows
from tasks.collect import collect
from tasks.config.collect import Collect
from tasks.config.prepare import Prepare
from tasks.journal import Log
from tasks.prepare import prepare
from tests.rlhf.families import PRETRAINED, family
from tests.rlhf.hostile import HOSTILE

WORLD = Chat.from_words(["hello", "there"])
TEXTS = [text for text in HOSTILE if text == text.strip()]  # what some formats strip says nothing about turns


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)


def pair(number: int, text: str) -> dict[str, str]:
    return {"prompt": f"{number}: {text}", "chosen": text, "rejected": f"no {text}"}


def hh(number: int, text: str) -> dict[str, str]:
    start = f"\n\nHuman: {number}: {text}\n\nAssistant: "
    return {"chosen": start + text, "rejected": f"{start}no {text}"}


def alpaca(number: int, text: str) -> dict[str, str]:
    return {"instruction": f"{number}: {text}", "input": "", "output": text, "chosen": text, "rejected": f"no {text}"}


def turns(number: int, text: str) -> dict[str, Any]:
    asked = [said("system", text), said("user", f"{number}: {text}"), said("assistant", text), said("user", text)]
    return {"messages": asked, "chosen": text, "rejected": f"no {text}"}


def zipped(path: Path, rows: list[Any]) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


FORMS: dict[str, tuple[Callable[[int, str], dict[str, Any]], Callable[[Path, list[Any]], object]]] = {
    "strings.jsonl": (pair, lines),
    "array.json": (pair, lambda path, rows: path.write_text(json.dumps(rows), "utf-8")),
    "packed.jsonl.gz": (pair, zipped),
    "commas.csv": (pair, table),
    "tabs.tsv": (pair, table),
    "columns.parquet": (pair, lambda path, rows: pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)),
    "hh.jsonl": (hh, lines),
    "alpaca.json": (alpaca, lambda path, rows: path.write_text(json.dumps(rows), "utf-8")),
    "messages.jsonl": (turns, lines),
}


@pytest.fixture(scope="module", params=FORMS)
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The preferences of a file of the form, through `collect` and `prepare`."""
    made, write = FORMS[request.param]
    root = tmp_path_factory.mktemp("forms")
    (root / "inbox" / "preferences").mkdir(parents=True)
    write(root / "inbox" / "preferences" / request.param, [made(*each) for each in enumerate(TEXTS)])
    collect(Collect(source="inbox"), inbox=root / "inbox", out=root / "raw", log=Log.null())
    prepare(Prepare(eval_share=0), raw=root / "raw", out=root / "prepared", log=Log.null())
    return list(read_rows(root / "prepared" / "preferences"))


def controls(chat: Chat, ids: list[int]) -> list[int]:
    return [token_id for token_id in ids if token_id in chat.control_ids]


def test_hostile_texts_come_through_as_they_are(rows: list[dict[str, Any]]) -> None:
    assert len(TEXTS) >= 50
    assert [row["chosen"] for row in rows] == TEXTS
    assert [row["messages"][-1]["content"] in (text, f"{number}: {text}") for number, (row, text) in enumerate(zip(rows, TEXTS, strict=True))] == [True] * len(TEXTS)  # fmt: skip  # noqa: E501


@pytest.mark.faults(
    42,
    injected="some 150 texts with control tokens, whole, split, hidden and look-alike, in nine forms of file",
    happens="through collect and prepare into every template: no control id more than of a harmless text",
)
def test_no_row_of_any_form_forges_a_turn_in_any_template(rows: list[dict[str, Any]]) -> None:
    for chat in (WORLD, *map(family, PRETRAINED)):
        harmless: dict[tuple[str, ...], list[int]] = {}
        for row in rows:
            if not chat.knows(row["messages"]):
                continue
            roles = tuple(message["role"] for message in row["messages"])
            if roles not in harmless:
                harmless[roles] = controls(chat, chat.encode_prompt([said(role, "hello") for role in roles]))
            assert controls(chat, chat.encode_prompt(row["messages"])) == harmless[roles], row["chosen"]
            for side in ("chosen", "rejected"):
                assert controls(chat, chat.encode_completion(row[side])) == [chat.stop_id], row[side]
        assert harmless or chat is WORLD or "system" not in chat.roles
