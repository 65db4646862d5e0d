"""Which models a policy, a pipeline or a role binding is about. Pure data and one question."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from modelplane.resources.meta import ModelName, Part


class ModelSelector(Part):
    """Models by name or by labels; with neither, every model."""

    names: tuple[ModelName, ...] = Field(default=(), description="Any of these models.")
    labels: dict[str, str] = Field(
        default_factory=dict, description="Labels that the model has, all of them: team, tier …"
    )

    def matches(self, name: str, labels: Mapping[str, str]) -> bool:
        """Whether the model `name` with its `labels` is meant."""
        named = not self.names or name in self.names
        return named and all(labels.get(key) == value for key, value in self.labels.items())
