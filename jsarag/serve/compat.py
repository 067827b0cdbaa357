"""The shapes of other servers' requests and answers, so that their clients work unchanged."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, field_validator
from torch import Tensor

from jsarag.serve.schemas import checked_texts
from jsarag.types import Hit

_SEARCH_R1_K = 3  # its server's own default


class EmbeddingsRequest(BaseModel):
    """OpenAI's request; ``model`` and ``user`` are accepted and mean nothing here."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"input": "who repairs the clock tower?"}]}
    )

    input: StrictStr | list[StrictStr] = Field(description="one text or a list of them")
    model: StrictStr = Field("", description="ignored: there is one model")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="base64: little-endian float32"
    )
    user: StrictStr | None = Field(None, description="ignored")

    @field_validator("input")
    @classmethod
    def _checked(cls, value: str | list[str]) -> str | list[str]:
        return checked_texts(value)

    @property
    def texts(self) -> list[str]:
        """The input as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class EmbeddingInfo(BaseModel):
    """One vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsResponse(BaseModel):
    """One vector per text, in order; tokens are not counted."""

    object: Literal["list"]
    data: list[EmbeddingInfo]
    model: str


class RetrieveRequest(BaseModel):
    """Search-R1's request."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"queries": ["who repairs the clock tower?"], "topk": 3}]},
    )

    queries: list[StrictStr]
    topk: Annotated[StrictInt, Field(ge=0)] | None = Field(
        None, description="passages per query; null or 0: 3"
    )
    return_scores: StrictBool = Field(False, description="whether scores come with the passages")

    @field_validator("queries")
    @classmethod
    def _checked(cls, value: list[str]) -> list[str]:
        checked_texts(value)
        return value

    @property
    def k(self) -> int:
        """Passages per query."""
        return self.topk or _SEARCH_R1_K


def embeddings_response(
    vectors: Sequence[Tensor], request: EmbeddingsRequest, model: str
) -> dict[str, Any]:
    """The answer of ``/v1/embeddings``."""
    data = [
        {
            "object": "embedding",
            "index": place,
            "embedding": _base64(vector)
            if request.encoding_format == "base64"
            else vector.tolist(),
        }
        for place, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model}


def retrieve_response(results: Sequence[Sequence[Hit]], request: RetrieveRequest) -> dict[str, Any]:
    """The answer of ``/retrieve``: a document's first line is its title in quotes."""
    found: list[list[dict[str, Any]]] = []
    for hits in results:
        documents = [{"id": hit.id, "contents": f'"{hit.title}"\n{hit.text}'} for hit in hits]
        if request.return_scores:
            found.append(
                [
                    {"document": document, "score": hit.score}
                    for document, hit in zip(documents, hits, strict=True)
                ]
            )
        else:
            found.append(documents)
    return {"result": found}


def _base64(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode("ascii")
