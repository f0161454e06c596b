"""Size of the embedded world (`rlhf.world`)."""

from tasks.config import Section


class World(Section):
    """The `collect.world` block: keyword arguments of `rlhf.world.generate.write_world`."""
