"""A server that speaks vLLM's dialect of OpenAI's completions as a sampler; docs/samplers.md has the protocol.

Every version of the policy is handed over by a path (`rlhf.samplers.hand_over`), every answer must come from that
version, and everything in an answer is checked (`rlhf.samplers.answers`). Requests are those of vLLM's sources of
autumn 2026; what was run is a stub that speaks them. NOT run against a vLLM: needs `--logprobs-mode
processed_logprobs`, as its own default are log-probabilities before the temperature.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf.chat import Chat
from rlhf.errors import PreflowError
from rlhf.export import PROBES
from rlhf.models import Policy
from rlhf.parallel import in_parallel
from rlhf.remote import Remote
from rlhf.sampler import Completion, check_request
from rlhf.samplers.answers import Asked, Garbage, completions_of, parsed
from rlhf.samplers.hand_over import HandOver, version_of
from rlhf.seeding import derive
from rlhf.spending import ACCOUNT, spent

PROBED = 64
"""Ids spread over the vocabulary whose texts the server has to read as the policy does."""
_PLAIN = {
    "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0,
    "frequency_penalty": 0.0, "ignore_eos": True,
}  # fmt: skip
"""The policy's own distribution: a server would take what generation_config.json of its model says for the rest."""


class Server:
    """A `rlhf.sampler.Sampler`. The same seed gives the same completions again where the server keeps to seeds.

    A prompt is one request with a seed of its own: in one request for all, equal prompts would have equal completions.
    """

    def __init__(self, remote: Remote, hand_over: HandOver, folder: Path, parallel: int = 16) -> None:
        """`folder` is read by the server by the same path; `parallel` prompts are asked at a time."""
        self._remote, self._hand_over, self._folder, self._parallel = remote, hand_over, folder.resolve(), parallel
        self._model = ""
        self._served = ""

    def check(self, policy: Policy) -> None:
        """Before any work: it is there, its tokenizer gives texts the ids that the policy's does, and it takes it in.

        Raises DependencyDown where it does not answer, PreflowError where one of these is not so.
        """
        models = self._parsed("v1/models").get("data")
        names = [one.get("id") for one in models if isinstance(one, dict)] if isinstance(models, list) else []
        if not names or not isinstance(names[0], str):
            raise self._garbage("serves no model")
        self._model = names[0]
        probe = _probe(policy.chat)
        expected = policy.chat.tokenizer.encode(probe, add_special_tokens=False).ids
        body = {"model": self._model, "prompt": probe, "add_special_tokens": False}
        if self._parsed("tokenize", body).get("tokens") != expected:
            raise PreflowError(
                f"the sampler server at {self._remote.url} reads a text as other ids than the policy does (a "
                f"vocabulary of {policy.chat.vocab_size}): start it on the policy that rl starts from"
            )
        self._serve(policy, version_of(policy))

    def __call__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        temperature: float,
        group_size: int,
        seed: int,
    ) -> list[Completion]:
        """As the protocol says. A version that is answered with and is not the policy's is handed over and asked again.

        Raises DependencyDown where the server does not answer, PreflowError where it answers with garbage, or never
        with the policy's version.
        """
        check_request(policy, prompts, max_new_tokens, temperature, group_size)
        with spent("sample"):
            if not self._model:
                self.check(policy)
            # vLLM refuses more than one choice where all would be the same.
            copies, choices = (1, group_size) if temperature > 0 else (group_size, 1)
            version, num_rows = version_of(policy), policy.model.get_output_embeddings().weight.shape[0]
            asked = [
                Asked(index, prompt, choices, max_new_tokens, num_rows, policy.chat.stop_id, version)
                for index, prompt in enumerate(prompts)
            ]
            found = self._until_fresh(policy, asked, temperature, seed)
        completions = [one for index in range(len(prompts)) for one in found[index] * copies]
        ACCOUNT.add(tokens_sampled=sum(len(one.ids) for one in completions))
        return completions

    def _until_fresh(
        self, policy: Policy, asked: Sequence[Asked], temperature: float, seed: int
    ) -> dict[int, list[Completion]]:
        """Completions by prompt; those that another version gave are asked for again, a bounded number of times."""
        found: dict[int, list[Completion]] = {}
        stale = ""
        for attempt in range(self._remote.attempts):
            left = [one for one in asked if one.prompt_index not in found]
            if not left:
                break
            self._remote.pause(attempt)
            if attempt or self._served != left[0].version:
                self._serve(policy, left[0].version)
            answers = in_parallel(lambda one: self._ask(one, temperature, seed), left, self._parallel)
            for one, (version, completions) in zip(left, answers, strict=True):
                if version == one.version:
                    found[one.prompt_index] = completions
                else:
                    stale = version
        if len(found) < len(asked):
            raise PreflowError(
                f"the sampler server at {self._remote.url} answered with version {stale[:40]} of the policy, expected "
                f"{asked[0].version}, {self._remote.attempts} times: let no other training use it, and see that it "
                f"reads {self._folder}"
            )
        return found

    def _serve(self, policy: Policy, version: str) -> None:
        """Write the policy, have the server load it, and forget the one before."""
        folder = self._folder / version
        if not folder.is_dir():
            draft = self._folder / "draft"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self._hand_over.write(policy, draft)
            draft.rename(folder)
        self._hand_over.tell(self._remote, version, folder)
        if self._served not in ("", version):
            self._hand_over.forget(self._remote, self._served)
        self._served = version
        for other in self._folder.iterdir():
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)

    def _ask(self, asked: Asked, temperature: float, seed: int) -> tuple[str, list[Completion]]:
        """The version that answered, and its completions of one prompt where it is the policy's."""
        body = _PLAIN | {
            "model": self._hand_over.model_of(self._model, asked.version),
            "prompt": list(asked.prompt),
            "n": asked.choices,
            "max_tokens": asked.max_new_tokens,
            "temperature": temperature,
            "seed": derive(seed, "sample", asked.prompt_index),
            "stop_token_ids": [asked.stop_id],
            "logprobs": 1,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
        }
        answer = self._parsed("v1/completions", body)
        try:
            version = self._hand_over.echoed(self._remote, answer)
            return version, completions_of(answer, asked) if version == asked.version else []
        except Garbage as error:
            raise self._garbage(str(error)) from None

    def _parsed(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        said = self._remote.ask(path, body)
        try:
            return parsed(said)
        except Garbage as error:
            raise self._garbage(f"{error}{self._remote.shown(said)}") from None

    def _garbage(self, what: str) -> PreflowError:
        return PreflowError(
            f"the sampler server at {self._remote.url} {what}: see its url, its version and its log; docs/samplers.md "
            "has what it must speak"
        )


def _probe(chat: Chat) -> str:
    """A text of every control token, of ids from the whole vocabulary, and of what a larger one may cut otherwise."""
    spread = range(0, chat.vocab_size, max(1, chat.vocab_size // PROBED))
    plain = chat.tokenizer.decode([*spread, chat.vocab_size - 1], skip_special_tokens=True)
    return "".join([*chat.control_tokens, plain, *PROBES])
