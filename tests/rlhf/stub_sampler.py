"""A sampler server on threads of the test: vLLM's paths and fields, our model code, and whatever fault a test wants."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlhf.models import Policy, load_policy
from rlhf.remote import Remote
from rlhf.sampler import Completion, sample
from rlhf.samplers.hand_over import WEIGHTS, HandOver
from rlhf.samplers.server import Server
from tests.web_servers import Quiet, on_a_thread

PROMPTS = [[6, 7, 8], [9, 10, 11, 12, 13]]
ATTEMPTS = 3
Answer = dict[str, Any]
Fault = Callable[[Answer], Answer | bytes | int | None]
"""From the right answer to what is sent: another one, bytes, an HTTP status, or None to hang."""


def right(answer: Answer) -> Answer:
    return answer


class Cut(bytes):
    """Sent as the first half of an answer, after which the connection ends."""


@dataclass
class Stub:
    """What it holds, what it was asked, and what it does wrong."""

    policy: Policy
    url: str = ""
    version: str = "default"
    """What `weight_info` says."""
    adapters: dict[str, Policy] = field(default_factory=dict)
    faults: Callable[[int], Fault] = lambda number: right
    """What goes wrong with a request for completions, by its number from 1."""
    dtype: torch.dtype = torch.float32
    """What it computes in."""
    loads: Callable[[int], bool] = lambda number: True
    """Whether it takes in what is handed over, by the number of the time from 1."""
    honest: bool = True
    """Whether it says so where it does not."""
    asked: list[tuple[str, Answer]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the test is over: what hangs then ends."""
    one_at_a_time: threading.RLock = field(default_factory=threading.RLock)

    def bodies(self, path: str) -> list[Answer]:
        return [body for name, body in self.asked if name == path]

    def answer(self, path: str, body: Answer) -> Any:
        """As `Fault` has it."""
        with self.one_at_a_time:
            self.asked.append((path, body))
            if path == "/v1/completions":
                number = len(self.bodies(path))
                return self.faults(number)(self.completions(body))
            return getattr(self, path.partition("?")[0].rpartition("/")[2])(body)

    def models(self, body: Answer) -> Answer:
        return {"object": "list", "data": [{"id": "toy"}]}

    def tokenize(self, body: Answer) -> Answer:
        ids = self.policy.chat.tokenizer.encode(body["prompt"], add_special_tokens=body["add_special_tokens"]).ids
        return {"tokens": ids, "count": len(ids)}

    def pause(self, body: Answer) -> Answer:
        return {"status": "paused"}

    def resume(self, body: Answer) -> Answer:
        return {"status": "resumed"}

    def collective_rpc(self, body: Answer) -> Answer:
        assert body["method"] == "reload_weights"
        if self.loads(len(self.bodies("/collective_rpc"))):
            self.policy = load_policy(Path(body["kwargs"]["weights_path"]))
            self.policy.model.to(self.dtype)
        return {"results": [None]}

    def update_weight_version(self, body: Answer) -> Answer:
        if self.loads(len(self.bodies("/collective_rpc"))) or not self.honest:
            self.version = body["new_version"]
        return {"success": True}

    def weight_info(self, body: Answer) -> Answer | bytes:
        return {"weight_version": self.version} if self.version else b"<html>"

    def load_lora_adapter(self, body: Answer) -> bytes:
        self.adapters[body["lora_name"]] = with_adapter(self.policy, Path(body["lora_path"]))
        return b"Success"  # vLLM answers in plain text

    def unload_lora_adapter(self, body: Answer) -> bytes | int:
        return b"Success" if self.adapters.pop(body["lora_name"], None) is not None else 404

    def completions(self, body: Answer) -> Answer:
        policy = self.adapters.get(body["model"], self.policy)
        assert body["stop_token_ids"] == [policy.chat.stop_id] and body["temperature"] >= 0
        drawn = sample(
            policy, [body["prompt"]], max_new_tokens=body["max_tokens"], temperature=body["temperature"],
            group_size=body["n"], seed=body["seed"],
        )  # fmt: skip
        choices = [
            {
                "index": index,
                "text": policy.chat.decode(one.ids),
                "logprobs": {"token_logprobs": one.logprobs, "tokens": [f"token_id:{token}" for token in one.ids]},
                "finish_reason": one.stop_reason,
                "token_ids": one.ids,
                "prompt_token_ids": body["prompt"],
            }
            for index, one in enumerate(drawn)
        ]
        return {"object": "text_completion", "model": body["model"], "choices": choices[::-1]}


def with_adapter(base: Policy, folder: Path) -> Policy:
    """The base with an adapter laid over it by PEFT itself, and merged: a module of its own."""
    from copy import deepcopy

    from peft import PeftModel

    return Policy(PeftModel.from_pretrained(deepcopy(base.model), folder).merge_and_unload().eval(), base.chat)


@contextmanager
def stub_of(folder: Path) -> Iterator[Stub]:
    """A server that was started on a policy folder, and is gone afterwards."""
    found = Stub(load_policy(folder))

    class Handler(Quiet):
        def do_GET(self) -> None:
            self._answer(found.answer(self.path, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(found.answer(self.path, body))

        def _answer(self, said: Answer | bytes | int | None) -> None:
            if said is None:
                found.done.wait()
                self.close_connection = True
                return
            text = said if isinstance(said, bytes) else b"" if isinstance(said, int) else json.dumps(said).encode()
            self.send_response(said if isinstance(said, int) else 200)
            self.send_header("Content-Length", str(len(text) * (2 if isinstance(said, Cut) else 1)))
            self.end_headers()
            self.wfile.write(text)
            self.close_connection = isinstance(said, Cut)

    with on_a_thread(Handler) as url:
        found.url = url
        try:
            yield found
        finally:
            found.done.set()


def server(stub: Stub, folder: Path, hand_over: HandOver = WEIGHTS, **settings: Any) -> Server:
    """The sampler on it, which asks one prompt at a time and waits for nothing between two attempts."""
    about: dict[str, Any] = {"timeout_seconds": 60.0, "attempts": ATTEMPTS, "pause_seconds": 0.0, **settings}
    remote = Remote(name="sampler server", url=stub.url, see="url, key and log", **about)
    return Server(remote, hand_over, folder / "handed_over", parallel=1)


def draw(sampler: Server, policy: Policy) -> list[Completion]:
    """Two completions of at most six tokens for each of two prompts."""
    return sampler(policy, PROMPTS, max_new_tokens=6, temperature=1.0, group_size=2, seed=0)
