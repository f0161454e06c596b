"""What is said to be kept against what autograd, the optimiser, adapters and the cache really hold."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import rlhf.adamw
from rlhf import footprint
from rlhf.batching import Batch, collate
from rlhf.chat import Chat
from rlhf.models import Policy, forward, logprobs, save_policy, token_logprobs, trainable
from rlhf.models.fused import fuse_norms
from rlhf.models.packing import WORTH, packing_of
from rlhf.models.recompute import recompute_blocks
from rlhf.optimizer import OptimizerSettings, adamw, float32_copies, step
from rlhf.sampler import _roomy_cache
from rlhf.sizes import PACKED_BELOW, How, Pass, Sizes
from tasks.config.training import Training

PLAIN = Sizes(500, 128, 2, 4, 4, 32, 384, tied=True)
GROUPED = Sizes(500, 128, 3, 4, 1, 32, 320, tied=True)
DEEP = Sizes(900, 64, 6, 4, 2, 16, 256, tied=False)
MIXED = Sizes(4000, 96, 3, 3, 3, 32, 288, tied=False)


FLOAT32 = How()


def model_of(sizes: Sizes, how: How = FLOAT32) -> Any:
    config = LlamaConfig(
        vocab_size=sizes.vocab, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, intermediate_size=sizes.intermediate,
        max_position_embeddings=512, tie_word_embeddings=sizes.tied, attn_implementation="sdpa",
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, how.dtype)).eval()
    fuse_norms(model)
    if how.gradient_checkpointing:
        recompute_blocks(model)
    return model


def batch_of(sizes: Sizes, lengths: tuple[int, ...], alike: int) -> Batch:
    """Rows of these lengths of which all begin with the same `alike` tokens, the prompt of 2 or more."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(3, sizes.vocab, (count,), generator=draw).tolist()

    prompt = ids(alike)
    rows = [prompt + ids(length - alike) for length in lengths]
    masked = max(alike, 2)
    return collate([(row, [False] * masked + [True] * (len(row) - masked)) for row in rows], 2)


def pass_of(batch: Batch) -> Pass:
    packing = packing_of(batch.input_ids, batch.attention_mask)
    places = batch.input_ids.numel()
    return Pass(places, len(packing.place) if packing.worth_it else places, int(batch.loss_mask.sum()))


def kept(model: Any, batch: Batch) -> int:
    """Bytes that the forward pass keeps for the backward pass, weights and the like not counted."""
    inner = model.base.model if hasattr(model, "base") else model
    own = {tensor.untyped_storage().data_ptr() for tensor in (*inner.parameters(), *inner.buffers())}
    own |= {tensor.untyped_storage().data_ptr() for tensor in model.parameters()}
    found: dict[int, int] = {}
    held: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        held.append(tensor)  # so that no address is used twice
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_logprobs(model, batch).sum()
    return sum(found.values())


def said(sizes: Sizes, how: How, work: Pass) -> float:
    whole = footprint.activations(sizes, how, work) + footprint.logits(sizes, work)
    # A block that is computed again is there in the backward pass only.
    return whole - (footprint.block(sizes, how, work) if how.gradient_checkpointing else 0.0)


EVEN, RAGGED = (64, 64, 64, 64), (64, 40, 30, 20)


@pytest.mark.parametrize(
    ("sizes", "how", "lengths", "alike"),
    [
        (PLAIN, How(), EVEN, 0),
        (GROUPED, How(), EVEN, 0),
        (DEEP, How(), EVEN, 0),
        (MIXED, How(), EVEN, 0),
        (PLAIN, How(), RAGGED, 0),
        (GROUPED, How(), EVEN, 40),
        (GROUPED, How(dtype="bfloat16"), EVEN, 0),
        (MIXED, How(dtype="bfloat16"), RAGGED, 0),
        (DEEP, How(gradient_checkpointing=True), EVEN, 0),
        (MIXED, How(gradient_checkpointing=True), RAGGED, 0),
    ],
)
def test_what_a_forward_pass_keeps(sizes: Sizes, how: How, lengths: tuple[int, ...], alike: int) -> None:
    batch = batch_of(sizes, lengths, alike)
    assert kept(model_of(sizes, how), batch) == pytest.approx(said(sizes, how, pass_of(batch)), rel=0.03)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_forward_pass_keeps_of_adapters(dtype: Any, chat: Chat, tmp_path: Path) -> None:
    sizes = Sizes(chat.vocab_size, 128, 3, 4, 2, 32, 320, tied=True)
    save_policy(Policy(model_of(sizes), chat), tmp_path)
    model = trainable(tmp_path, Training(method="lora", rank=8, dtype=dtype), 0, "sft").model
    batch = batch_of(sizes, EVEN, 0)
    how = How(method="lora", rank=8, dtype=dtype)
    assert kept(model, batch) == pytest.approx(said(sizes, how, pass_of(batch)), rel=0.05)
    adapter = sum(weight.numel() for weight in model.adapters[-1].weights.values())
    assert adapter == sizes.adapter(8)


@pytest.mark.parametrize("sizes", [PLAIN, GROUPED, DEEP, MIXED])
def test_weights_are_counted(sizes: Sizes) -> None:
    assert sizes.parameters == sum(weight.numel() for weight in model_of(sizes).parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_training_holds(dtype: Any) -> None:
    """Weights with their float32 copies, gradients, moments: bytes of the tensors after a step."""
    how = How(dtype=dtype)
    model = model_of(GROUPED, how)
    copies = float32_copies({"policy": model})
    optimizer = adamw({"policy": model}, OptimizerSettings(lr=1e-3), copies)
    token_logprobs(model, batch_of(GROUPED, EVEN, 0)).sum().backward()
    gradients = [weight.grad.nbytes for weight in model.parameters() if weight.grad is not None]
    assert sum(gradients) == footprint.gradients(GROUPED, how)
    step(optimizer, copies)
    weights = sum(weight.nbytes for weight in (*model.parameters(), *copies.values()))
    assert weights == footprint.weights(GROUPED, how, trained=True)
    moments = [value.nbytes for state in optimizer.state.values() for value in state.values() if value.dim()]
    assert sum(moments) == footprint.moments(GROUPED, how)


def test_keys_and_values_of_a_sampler() -> None:
    """Two prompts of 9 tokens, three completions each with room for 7."""
    model, cache = model_of(GROUPED), DynamicCache()
    with torch.no_grad():
        model(input_ids=torch.full((2, 9), 5), past_key_values=cache, use_cache=True)
    held = sum(buffer.nbytes for layer in _roomy_cache(cache, 3, 7).layers for buffer in layer._buffers)
    drawing = footprint.DRAWING * 6 * GROUPED.vocab
    assert footprint.sampling(GROUPED, How(), rows=6, length=16) == held + drawing


def test_as_the_passes_are() -> None:
    assert (footprint.LOGITS_AT_ONCE, PACKED_BELOW) == (forward.LOGITS_AT_ONCE, WORTH)
    assert footprint.BLOCK_ON_A_GPU == logprobs.ON_A_GPU
    assert footprint.LARGE == rlhf.adamw.LARGE


def test_the_gradient_of_a_large_embedding_takes_no_memory_on_a_processor() -> None:
    """32,000 words of 512: 65 MB that are rows."""
    work = Pass(800, 800, 600)
    for sizes, rows in ((replace(MIXED, vocab=32000, hidden=512), True), (replace(MIXED, vocab=32000), False)):
        terms, before = footprint.step(sizes, How(), work), footprint.gradients(sizes, How())
        late = footprint.heap(sizes, How(), work)[1]
        assert terms["gradients"] == pytest.approx(late * (before - 4 * sizes.embedding * rows))


def test_the_lm_head_takes_more_for_a_moment_than_it_keeps() -> None:
    """Of 4·2^23 bytes of logits on a GPU as much again, of 4·2^27 a block; of bfloat16 what they were widened from."""
    few, many = (Pass(0, 0, tokens) for tokens in (2**23 // 2**10, 2**20))
    sizes = replace(PLAIN, vocab=2**10)
    assert footprint.reading(sizes, How(), few) == footprint.logits(sizes, few) == 4 * 2**23
    assert footprint.reading(sizes, How(cuda=True), few) == 2 * 4 * 2**23
    assert footprint.reading(sizes, How(cuda=True), many) == 4 * 2**27 + 4 * 2**24
    assert footprint.reading(sizes, How(cuda=True, dtype="bfloat16"), many) == 6 * 2**27
    assert footprint.scoring(sizes, How(cuda=True), many, head=True) == footprint.reading(sizes, How(cuda=True), many)


def test_worked_by_hand() -> None:
    """A block of width 2 with one head, inner width 3, a vocabulary of 5: 4·2·2 + 3·2·3 = 34 weights and 4 of norms."""
    sizes = Sizes(vocab=5, hidden=2, layers=1, heads=1, kv_heads=1, head_size=2, intermediate=3, tied=False)
    assert (sizes.linear, sizes.parameters, sizes.adapter(1)) == (34, 34 + 2 * 10 + 6, 4 * 4 + 3 * 5)
    assert footprint.weights(sizes, How(), trained=True) == 60 * 4
    assert footprint.weights(sizes, How(dtype="bfloat16"), trained=True) == 60 * (2 + 4)
    assert footprint.weights(sizes, How(method="qlora", rank=1, dtype="bfloat16"), trained=True) == pytest.approx(
        0.516 * 34 + 2 * 26 + 4 * 31
    )
    assert footprint.moments(sizes, How(optimizer="adamw_8bit")) == 60 * 2
    # Half of the block's 38, all 22 outside of it; while it is trained two blocks more, where there are as many.
    shards = How(shards=2)
    assert footprint.held(sizes, shards) == 19 + 22
    assert footprint.weights(sizes, shards, trained=True, whole=False) == 4 * (19 + 22 + 2 * 38)
    assert footprint.weights(sizes, shards, trained=True) == 4 * (60 + 19)
    assert footprint.gathered(sizes, shards) == {"weights": 4 * (60 + 19), "moments": 8 * (19 + 22)}
    # On disk once, by whatever process; an LM head that is not read has no moments.
    assert footprint.checkpoint(sizes, shards) == footprint.checkpoint(sizes, How(dtype="bfloat16")) == (4 + 8) * 60
    assert footprint.checkpoint(sizes, How(), head=False) == 4 * 60 + 8 * 50
    assert footprint.checkpoint(sizes, How(method="lora", rank=1)) == (4 + 8) * 31
    assert footprint.moments(sizes, shards) == 8 * (19 + 22)
    # Of a frozen base the same, and of an adapter, which lies in the block, half and all of it beside.
    adapter = How(method="lora", rank=1, shards=2)
    assert footprint.weights(sizes, adapter, trained=True, whole=False) == 4 * (19 + 22 + 2 * 38 + 15.5 + 2 * 31)
    assert footprint.gathered(sizes, adapter) == {"weights": 4 * (60 + 19 + 31 + 15.5), "moments": 8 * 15.5}
    assert footprint.checkpoint(sizes, adapter) == (4 + 8) * 31


DIVIDED = """
import gc
import sys
from pathlib import Path
import torch
from torch.testing._internal.distributed.fake_pg import FakeStore
from rlhf import distributed, sharding
from rlhf.models.adapters import Base, Origin, Shape
from rlhf.sizes import How
from tests.rlhf.test_footprint import DEEP, model_of

def held():
    gc.collect()
    tensors = [one for one in gc.get_objects() if isinstance(one, torch.Tensor)]
    storages = [(one.to_local() if sharding.divided(one) else one).untyped_storage() for one in tensors]
    return sum({one.data_ptr(): one.nbytes() for one in storages}.values())

torch.distributed.init_process_group("fake", rank=0, world_size=2, store=FakeStore())
distributed.group = lambda: distributed.Group(0, 2)
model = model_of(DEEP, How(dtype="bfloat16"))
if sys.argv[1] == "lora":
    base = Base(model, Origin(Path(), "", False, "bfloat16"))
    model = base.view([base.add("sft", Shape(8, 16.0, 0.0, base.linear, ()))], trained=True)
sharding.shard([model])
print(held())
sharding.put_together([model])
print(held())
"""


@pytest.mark.parametrize("method", ["full", "lora"])
def test_weights_that_are_put_together_lie_beside_their_shares(method: Any) -> None:
    """Of the first of two processes, bytes of all tensors: divided, and put together for passes that do not train."""
    command = [sys.executable, "-W", "ignore", "-c", DIVIDED, method]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    divided, together = map(int, ended.stdout.split())
    base, how = How(dtype="bfloat16", shards=2), How(method, rank=8, dtype="bfloat16", shards=2)
    adapter = 4 * footprint.held(DEEP, how) if method == "lora" else 0.0
    assert divided == pytest.approx(2 * footprint.held(DEEP, base) + adapter, rel=1e-3)
    assert together == pytest.approx(footprint.weights(DEEP, how, trained=False), rel=1e-3)


def test_the_peak_of_a_step() -> None:
    """On a GPU the fuller end of the backward pass, on a processor most of both together."""
    few, many = Pass(8, 8, 4), Pass(8000, 8000, 4000)
    on_gpu, on_cpu = How(cuda=True), How()
    assert footprint.step(DEEP, on_gpu, few)["activations"] == 0  # many weights, few tokens: all gradients count
    assert footprint.step(DEEP, on_gpu, few)["gradients"] == 4 * DEEP.parameters
    first = footprint.step(DEEP, on_gpu, many)
    assert first["activations"] and first["gradients"] == 4 * DEEP.embedding  # that of the LM head alone
    several = footprint.step(DEEP, on_gpu, Pass(8000, 8000, 4000, several=True))
    assert several["gradients"] == 4 * (DEEP.parameters + DEEP.embedding)
    both = footprint.step(DEEP, on_cpu, many)
    assert both["activations"] and both["gradients"] == footprint.LATE * 4 * DEEP.parameters
    tied = footprint.step(PLAIN, on_cpu, Pass(8000, 8000, 4000, several=True))
    assert tied["gradients"] == 4 * PLAIN.parameters  # those of an earlier pass are there in the last one's forward


def test_the_heap_of_a_processor() -> None:
    """Inner width leaves fewer holes than attention does; adapters leave the most, and all of their gradients count."""
    wide, narrow = (replace(DEEP, intermediate=width) for width in (16 * DEEP.hidden, DEEP.hidden))
    work = Pass(800, 800, 400)
    assert footprint.heap(wide, How(), work)[0] < footprint.heap(narrow, How(), work)[0]
    assert footprint.heap(narrow, How(), work)[0] < footprint.heap(narrow, How(method="lora"), work)[0]
    assert footprint.heap(DEEP, How(method="lora"), work)[1] == 1.0


def test_an_lm_head_that_is_not_read_has_no_gradient() -> None:
    read, unread = (footprint.step(DEEP, How(), Pass(8, 8, 4, several=True), head=head) for head in (True, False))
    assert read["gradients"] - unread["gradients"] == 4 * DEEP.embedding
    assert read["moments"] - unread["moments"] == 8 * DEEP.embedding
    assert unread["logits"] == 0
    tied = footprint.step(PLAIN, How(), Pass(8, 8, 4, several=True), head=False)
    assert tied["gradients"] == 4 * PLAIN.parameters
