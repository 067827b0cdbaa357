"""RAG on what both retrievers find: the posterior proposes passages, and is never trained."""

from __future__ import annotations

from typing import ClassVar

from jsarag.em.objectives.rag import Rag
from jsarag.em.problem import Problem
from jsarag.em.support import union_rows
from jsarag.types import Candidates, Support


class RagUnion(Rag):
    """loss = -log sum_z p(z|x) p(y|x,z), z in U, the union of both retrievers' top k.

    ``rag`` but for where it looks: what it gains over ``rag`` is what JSA gains by the posterior's
    candidates alone. The posterior stays as it began.
    """

    name: ClassVar[str] = "rag-union"
    needs_posterior: ClassVar[bool] = True
    supports: ClassVar[tuple[Support, ...]] = ("union",)

    def candidates(self, problem: Problem) -> Candidates:
        """U."""
        return Candidates(union_rows(problem, self.settings))
