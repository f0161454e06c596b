"""Where a promoted policy goes."""

from pydantic import Field

from tasks.config import Section


class Registry(Section):
    """The `registry` section."""

    name: str = Field("policy", pattern=r"^[A-Za-z0-9][\w.-]*$", description="registered model; a profile has its own")
