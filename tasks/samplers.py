"""From the configured sampler to what draws completions of a policy."""

from functools import partial
from pathlib import Path

from rlhf import distributed
from rlhf.models import Policy
from rlhf.remote import Remote
from rlhf.sampler import Sampler
from rlhf.samplers.continuous import refuse_adapters, sample_continuously
from rlhf.samplers.hand_over import ADAPTER, WEIGHTS
from rlhf.samplers.server import Server
from rlhf.together import sample_together, sampled_by_one
from tasks.config.generation import Generation
from tasks.config.rl import Rl
from tasks.redact import redacted


def sampler_of(config: Rl, generation: Generation, policy: Policy, scratch: Path) -> Sampler:
    """The sampler of a stage; a server has the policy's first version when this is done.

    `scratch` is a folder of this stage alone. Raises DependencyDown or PreflowError where it cannot sample this policy.
    """
    if config.sampler == "ours":
        return partial(sample_together, batch_size=generation.batch_size)
    if config.sampler == "continuous_batching":
        refuse_adapters(policy)
        return sampled_by_one(sample_continuously)
    about = config.sampler_server
    remote = Remote(
        name="sampler server",
        url=about.url,
        see="url, key and log, and docs/samplers.md",
        key_variable=about.key_variable,
        timeout_seconds=about.timeout_seconds,
        attempts=about.attempts,
        redact=redacted,
    )
    # Scratch folders are named by the stage's key, so that trainings do not meet in a folder that is shared.
    folder = scratch / "handed_over" if about.folder is None else Path(about.folder) / scratch.name
    server = Server(remote, WEIGHTS if about.hand_over == "weights" else ADAPTER, folder, about.parallel)
    if distributed.group().rank == 0:
        server.check(policy)
    return sampled_by_one(server)
