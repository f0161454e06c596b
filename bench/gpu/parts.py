"""The parts of the bench in the order of their worth: what each measures, and what is said of it. Light: no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.gpu.setting import Setting
from bench.speed import store

Found = Mapping[str, Any]
SFT_SHARE, SAMPLER_SHARE = 0.45, 0.40
LEFT_OUT = "left_out"
"""In a part's result: why nothing was measured."""
GRAPH = "no CUDA graph: the sampler has none"


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    line: str
    wanted: str
    got: str
    holds: bool | None
    """None where nothing is wanted of a figure but that it is there."""


@dataclass(frozen=True)
class Part:
    """What is measured in a process of its own."""

    name: str
    about: str
    limit: int
    """Seconds after which it is ended: all parts together end within half an hour."""
    module: str
    verdicts: Callable[[Found], Sequence[Verdict]]
    arguments: tuple[str, ...] = ()

    def digest(self, setting: Setting) -> str:
        """Of the setting and of all code that runs."""
        names = [f"bench.gpu.{self.module}", *(_STAGES if self.module == "green" else [])]
        files = {*store.reached(names), *store.pins(), *(setting.tests if self.module == "green" else [])}
        return store.digest_of([asdict(setting), list(self.arguments)], sorted(files))


_STAGES = [f"tasks.{name}" for name in ("sft", "reward_model", "sample", "rejection_sampling", "rl", "dpo", "evaluate")]


def _machine(found: Found) -> Sequence[Verdict]:
    got = f"matmul {found['matmul'] / 1e12:,.4g} TFLOP/s, copy {found['bandwidth'] / 1e9:,.4g} GB/s"
    return [Verdict("what the machine does at best", "measured", got, None)]


def _sft(found: Found) -> Sequence[Verdict]:
    got = f"{found['share']:.1%}: {found['tokens_per_second']:,.0f} tokens/s, peak {found['peak_mb'] / 1024:,.1f} GiB"
    return [Verdict("SFT, share of the matmul rate", f"≥ {SFT_SHARE:.0%}", got, found["share"] >= SFT_SHARE)]


def _sampler(found: Found) -> Sequence[Verdict]:
    got = f"{found['share']:.1%}: {found['tokens_per_second']:,.0f} of {found['bound']:,.0f} tokens/s; {GRAPH}"
    line = f"sampler at {found['sequences']} sequences, share of the bandwidth bound"
    return [Verdict(line, f"≥ {SAMPLER_SHARE:.0%}", got, found["share"] >= SAMPLER_SHARE)]


def _split(found: Found) -> Sequence[Verdict]:
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in found["shares"].items())
    got = f"{found['step_seconds']:.3g} s: {shares}"
    return [Verdict("time of a GRPO step", "split", got, None)]


def _tests(found: Found) -> Sequence[Verdict]:
    failing = f": {', '.join(found['failing'])}" if found["failing"] else ""
    got = f"{found['passed']} passed, {found['skipped']} skipped, {found['failed']} failed{failing}"
    return [Verdict("tests of the stages", "0 failed", got, found["failed"] == 0 and found["passed"] > 0)]


def _beside(stage: str) -> Callable[[Found], Sequence[Verdict]]:
    def verdicts(found: Found) -> Sequence[Verdict]:
        line = f"{stage} beside TRL, ours ÷ TRL"
        if found["not_same"]:
            return [Verdict(line, "same work", f"not the same work: {'; '.join(found['not_same'])}", False)]
        rates = found["tokens_per_second"]
        got = f"{found['ratio']:.2f}: {rates['ours']:,.0f} and {rates['theirs']:,.0f} tokens/s"
        return [Verdict(line, "same work", got, True)]

    return verdicts


PARTS = [
    Part("machine", "card, driver, versions, matmul rate and memory bandwidth", 60, "machine", _machine),
    Part("sft", "SFT in bfloat16 over the matmul rate", 150, "sft", _sft),
    Part("sampler", "decoding at the full batch over the bandwidth bound", 150, "sampling", _sampler),
    Part("split", "where the time of a GRPO step goes", 150, "split", _split),
    Part("tests", "tests of the stages on the device", 480, "green", _tests),
    *(
        Part(f"trl-{stage}", f"{stage} beside TRL, one round", 200, "beside", _beside(stage), (stage,))
        for stage in ("sft", "dpo", "grpo")
    ),
]
