"""Where a stage is done, if not where its run is."""

from typing import Any

from pydantic import Field, model_validator

from tasks.config import Section


class Pool(Section):
    """A Prefect work pool; `gpu` alone means `{pool: gpu}`."""

    pool: str = Field(min_length=1, description="its name")
    job_variables: dict[str, Any] = Field(
        default_factory=dict,
        description="what this stage's container has other than the pool's, by the pool's own names",
    )

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"pool": value}
        if isinstance(value, dict) and (unknown := [key for key in value if key not in cls.model_fields]):
            raise ValueError(f"unknown key {unknown[0]}; known keys: {', '.join(cls.model_fields)}")
        return value
