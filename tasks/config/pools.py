"""Where a stage is done, if not where its run is."""

from typing import Any

from pydantic import Field, field_validator, model_validator

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
        if not isinstance(value, dict | Pool):
            raise ValueError("expected a pool's name, or {pool: NAME, job_variables: {NAME: VALUE}}")
        if isinstance(value, dict) and (unknown := [key for key in value if key not in cls.model_fields]):
            raise ValueError(f"unknown key {unknown[0]}; known keys: {', '.join(cls.model_fields)}")
        return value

    @field_validator("job_variables")
    @classmethod
    def _nothing_to_hide(cls, value: dict[str, Any]) -> dict[str, Any]:
        """They are kept in git and at Prefect, where passwords among a container's variables would be read."""
        if refused := [name for name in ("env", "command") if name in value]:
            raise ValueError(
                f"`{refused[0]}` is not for a stage, as its values go to git and to Prefect: give passwords by Secrets "
                "or the secrets file, and the rest in the pool's template (docs/workers.md)"
            )
        return value
