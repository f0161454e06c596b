"""Rows that nothing may be made of any more."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from tasks.config import Section


class Withdraw(Section):
    """The `withdraw` section; `preflow withdraw` writes it."""

    sources: tuple[str, ...] = Field(
        (), description="sources whose rows are left out, as the rows have them; `a` means `a/b` too"
    )
    annotators: tuple[str, ...] = Field(
        (), description="people whose judgements are left out, simulated ones too (preferences, ratings)"
    )
    rows: tuple[str, ...] = Field((), description="ids of single rows that are left out")

    def reason(self, row: Mapping[str, Any]) -> str:
        """Why a row is left out: "source NAME", "annotator NAME" or "row ID"; "" where it is not."""
        source = str(row.get("source", ""))
        for name in self.sources:
            if source == name or source.startswith(f"{name}/"):
                return f"source {name}"
        if row.get("annotator") in self.annotators:
            return f"annotator {row['annotator']}"
        return f"row {row['id']}" if row.get("id") in self.rows else ""
