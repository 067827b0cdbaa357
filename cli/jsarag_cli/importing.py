"""``index import``: vectors that lie in a file become an index folder, once a sample agrees."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsarag.index.importing import Embed, Variant
    from jsarag.models.encoder import TextEncoder
    from jsarag.train.reporting import Reporter
    from jsarag.types import Passage
    from jsarag_cli.indexing import EncoderChoice

# What the makers of common encoders tell their users to put before a passage, and then before a
# query.
_PREFIXES = {
    "": "",
    "passage: ": "query: ",
    "search_document: ": "search_query: ",
    "title: none | text: ": "task: search result | query: ",
}
# Below this, a prefix may leave no room for text.
_ROOM = 32
_TOKENS = (128, 256, 384, 512)
# How people join title and text; ours is models.prompts.passage_text.
_TEXTS = (
    ("the text alone", "{text}"),
    ("'title text'", "{title} {text}"),
    ("title and text on two lines", "{title}\n{text}"),
)


def import_folder(
    vectors_path: Path,
    kb_path: Path,
    choice: EncoderChoice,
    output: Path,
    *,
    ids_path: Path | None,
    id_column: str | None,
    vector_column: str | None,
    dtype: str,
    samples: int,
    device: str,
    reporter: Reporter,
) -> None:
    """Match vectors with passages, prove them, write the index folder.

    Raises:
        DataError: they do not belong together, are damaged, or of another encoder.
        ConfigError: unknown dtype, encoder or kind of file.
        BackendUnavailableError: pyarrow or faiss is needed and not installed.
    """
    from jsarag.index.importing import import_vectors, match, prove
    from jsarag.index.interfaces import index_spec
    from jsarag.index.sources import open_vectors, read_ids
    from jsarag_cli.indexing import kept_facts, read_kb, require_dtype

    require_dtype(dtype)
    source = open_vectors(vectors_path, id_column=id_column, vector_column=vector_column)
    kb = read_kb(kb_path, reporter)
    rows = match(source, kb, None if ids_path is None else read_ids(ids_path))
    reporter.stage("load encoder", None)
    encoder = choice.load(device).passages
    reporter.stage(f"embed {min(samples, len(kb))} passages again", None)
    proof = prove(
        source,
        rows,
        kb,
        _embed(encoder),
        encoder.width,
        model=encoder.spec.model,
        variants=variants(encoder),
        samples=samples,
    )
    reporter.event(
        f"{proof.samples} passages embedded again agree (smallest cosine {proof.least_cosine:.6f})"
    )
    reporter.stage("write vectors", source.count)
    facts = {
        **kept_facts(choice, encoder, kb_path),
        "imported": {"file": vectors_path.name, "samples": proof.samples},
    }
    _, scaled = import_vectors(
        output,
        source,
        rows,
        kb,
        dtype=dtype,
        spec=index_spec(encoder, kb.digest),
        extra=facts,
        progress=lambda done, _: reporter.advance(done),
    )
    if scaled:
        reporter.event(f"{scaled:,} vectors were scaled to length 1, as this encoder's are")


def variants(encoder: TextEncoder) -> list[Variant]:
    """Other ways of using an encoder: each change alone, then two together."""
    from jsarag.models.hub import position_limit
    from jsarag.models.pooling import POOLINGS

    spec = encoder.spec
    most = position_limit(encoder.model.config, encoder.tokenizer)
    tokens = sorted({*(one for one in _TOKENS if one < most), min(most, 8192)})
    changes: list[list[_Change]] = [
        [
            _Change(
                f"{one} tokens of a passage" if one < most else f"all {one} tokens it can read",
                f"--max-passage-tokens {one}",
                spec={"max_passage_tokens": one},
            )
            for one in tokens
            if one != spec.max_passage_tokens
        ],
        [
            _Change(
                f"the passage prefix {one!r}" if one else "no passage prefix",
                f"--passage-prefix {one!r} (and --query-prefix {query!r})",
                spec={"passage_prefix": one},
            )
            for one, query in _PREFIXES.items()
            if one != spec.passage_prefix and spec.max_passage_tokens >= _ROOM
        ],
        [
            _Change(f"{one} pooling", f"--pooling {one}", spec={"pooling": one})
            for one in POOLINGS
            if one != spec.pooling
        ],
        [
            _Change(
                f"{says} of each passage",
                "jsarag reads 'title: text', so write a knowledge base whose texts are that and "
                "which has no titles",
                text=text,
            )
            for says, text in _TEXTS
        ],
    ]
    pairs = [
        pair
        for some, others in itertools.combinations(changes, 2)
        for pair in itertools.product(some, others)
    ]
    single = [(change,) for group in changes for change in group]
    return [_variant(encoder, group) for group in (*single, *pairs)]


@dataclass(frozen=True, slots=True)
class _Change:
    """One thing done otherwise: fields of the spec, or the text of a passage."""

    says: str
    fix: str
    spec: dict[str, Any] = field(default_factory=dict)
    text: str | None = None


def _variant(encoder: TextEncoder, changes: Sequence[_Change]) -> Variant:
    from jsarag.index.importing import Variant

    fields = {name: value for change in changes for name, value in change.spec.items()}
    text = next((change.text for change in changes if change.text is not None), None)

    def embed(passages: Sequence[Passage]) -> Any:
        from jsarag.models.encoder import TextEncoder

        other = TextEncoder(encoder.model, encoder.tokenizer, replace(encoder.spec, **fields))
        return _embed(other, text)(passages)

    says = " and ".join(change.says for change in changes)
    return Variant(says, " and ".join(change.fix for change in changes), embed)


def _embed(encoder: TextEncoder, text: str | None = None) -> Embed:
    from jsarag.models.prompts import passage_text

    def rendered(passage: Passage) -> str:
        if text is None:
            return passage_text(passage)
        return text.format(title=passage.title.strip(), text=passage.text.strip()).strip()

    return lambda passages: encoder.embed([rendered(one) for one in passages], "passage")
