"""The JSON of our own routes, as documented at ``/docs``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    field_validator,
)


def checked_texts(value: str | list[str]) -> str | list[str]:
    """One text or several, each with something in it that can be encoded.

    Raises:
        ValueError: none, a blank one, or half of a surrogate pair.
    """
    texts = [value] if isinstance(value, str) else value
    if not texts:
        raise ValueError("expected at least one query")
    for position, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"query {position} is blank")
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise ValueError(f"query {position} holds half of a surrogate pair")
    return value


class SearchRequest(BaseModel):
    """One query or several, and how many passages each shall get.

    ``query`` is accepted in place of ``queries``.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"queries": "who repairs the clock tower?", "k": 3}]},
    )

    queries: StrictStr | list[StrictStr] = Field(
        description="one query or a list of them",
        validation_alias=AliasChoices("queries", "query"),
    )
    k: Annotated[StrictInt, Field(ge=1)] = Field(10, description="passages per query")
    return_text: StrictBool = Field(True, description="whether hits carry the passage's text")

    @field_validator("queries")
    @classmethod
    def _checked(cls, value: str | list[str]) -> str | list[str]:
        return checked_texts(value)

    @property
    def texts(self) -> list[str]:
        """The queries as a list."""
        return [self.queries] if isinstance(self.queries, str) else self.queries


class IndexInfo(BaseModel):
    """Which index answered."""

    name: str
    generation: int


class HitInfo(BaseModel):
    """One passage; ``score`` is the inner product, ``rank`` starts at 1."""

    id: str
    score: float
    rank: int
    title: str
    text: str | None = Field(None, description="absent if return_text is false")
    meta: dict[str, Any] = Field(description="what the passage carries besides, as it was given")


class SearchResponse(BaseModel):
    """One list of hits per query, in the queries' order, best first."""

    index: IndexInfo
    results: list[list[HitInfo]]
    timings_ms: dict[str, float]


class ReloadResponse(BaseModel):
    """The index now in use, the generation it replaces, and how long it took."""

    index: IndexInfo
    previous_generation: int
    seconds: float


class Problem(BaseModel):
    """Every error looks like this."""

    error: str
    error_type: str
