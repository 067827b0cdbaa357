"""Is an export what the trainer has? Loaded in the tool it is for, and compared number by number.

Nothing of this package reads the weights here: sentence-transformers encodes, transformers (and
PEFT) score. The silver labels are read back by the readers their shapes have.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from jsarag.data.registry import load_dataset
from jsarag.errors import BackendUnavailableError
from jsarag.export.generator import BASE_FOLDER
from jsarag.export.sentence_transformers import role_of, token_limit
from jsarag.export.silver import SPLIT, Label
from jsarag.export.silver_formats import LABELS
from jsarag.models import hub
from jsarag.models.encoder import TextEncoder
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.hf_prompts import PromptBuilder
from jsarag.models.lora import load_adapter
from jsarag.models.prompts import TruncationCounter
from jsarag.models.retrievers import PartName
from jsarag.models.truncation import token_ids
from jsarag.types import GeneratorInput

LEAST_COSINE = 0.99999
# Stored or served vectors of a run in bfloat16 carry its rounding.
LEAST_COSINE_BF16 = 0.999
# A token: float32 rounding over a vocabulary adds up with a response's length.
MOST_NATS = 1e-4
_KEYS = {
    "dpr": {
        *("dataset", "question", "answers"),
        *("positive_ctxs", "negative_ctxs", "hard_negative_ctxs"),
    },
    "tevatron": {"query_id", "query", "positive_passages", "negative_passages"},
    "triplets": {"anchor", "positive", "negative"},
}


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        what: the part, and what it was compared with.
        measure: what ``value`` is: 'lowest cosine', 'rows that differ', ...
        value: found.
        limit: what it must reach or stay under; None for a number that is only shown.
        count: texts, pairs or rows compared.
        passed: whether it does.
    """

    what: str
    measure: str
    value: float
    limit: float | None
    count: int
    passed: bool

    def to_json(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


def has_sentence_transformers() -> bool:
    """Whether sentence-transformers is installed (extra ``export``)."""
    return importlib.util.find_spec("sentence_transformers") is not None


def require_sentence_transformers() -> None:
    """Fail in the user's words where the library is not installed.

    Raises:
        BackendUnavailableError: it is missing.
    """
    if not has_sentence_transformers():
        raise BackendUnavailableError(
            "--verify: expected the package sentence-transformers, which is not installed. Run "
            "`pip install 'jsarag[export]'`, or leave --verify out (writing does not need it)"
        )


@torch.no_grad()
def verify_encoder(
    folder: Path,
    part: PartName,
    encoder: TextEncoder,
    texts: Sequence[str],
    others: Mapping[str, Tensor],
) -> list[Check]:
    """Compare an exported encoder's vectors with the trainer's and others'.

    Args:
        folder: what ``write_encoder`` wrote.
        part: whose it is.
        encoder: the trainer's.
        texts: to encode, without prompt.
        others: vectors [n, D] of the same texts by where they come from: 'index', 'server'.

    Raises:
        BackendUnavailableError: sentence-transformers is missing.
    """
    require_sentence_transformers()
    from sentence_transformers import SentenceTransformer

    role = role_of(part)
    with hub.quiet_transformers(), _quiet_library():
        model = SentenceTransformer(
            str(folder), device=str(encoder.device), local_files_only=True, trust_remote_code=False
        )
    vectors = model.encode(
        list(texts), prompt_name=role, convert_to_tensor=True, show_progress_bar=False
    )
    exported = torch.as_tensor(vectors).float().cpu()
    prefix = encoder.spec.query_prefix if role == "query" else encoder.spec.passage_prefix
    lengths = [
        len(row)
        for row in token_ids(encoder.tokenizer, [prefix + text for text in texts], special=True)
    ]
    whole = torch.tensor([length <= token_limit(encoder, role) for length in lengths])
    name = part.replace("_", "-")
    trainer = encoder.embed(texts, role, bf16=False)
    checks = [_cosine(f"{name}: trainer", exported[whole], trainer.cpu()[whole], LEAST_COSINE)]
    for source, given in others.items():
        stored = given.float().cpu()
        rounded = encoder.bf16 or given.dtype != torch.float32
        limit = LEAST_COSINE_BF16 if rounded else LEAST_COSINE
        checks.append(_cosine(f"{name}: {source}", exported[whole], stored[whole], limit))
    cut = ~whole
    if bool(cut.any()):
        # The library cuts between word pieces, the trainer the text; the card says so.
        checks.append(_cosine(f"{name}: texts over the limit", exported[cut], trainer.cpu()[cut]))
    return checks


@torch.no_grad()
def verify_generator(
    folder: Path, generator: HFGenerator, pairs: Sequence[GeneratorInput], *, adapter: bool
) -> list[Check]:
    """Compare an exported generator's token ids and log-likelihoods with the trainer's.

    Args:
        folder: what ``write_generator`` wrote.
        generator: the trainer's; scored in float32.
        pairs: context, passage and response.
        adapter: whether the folder holds an adapter.
    """
    settings = generator.prompts.settings
    tokenizer = hub.load_tokenizer(str(folder))
    model = _load_language_model(folder, generator, adapter=adapter)
    builder = PromptBuilder(
        tokenizer,
        settings,
        positions=hub.position_limit(generator.inner.config, tokenizer),
        is_encoder_decoder=generator.is_encoder_decoder,
        counter=TruncationCounter(),
    )
    own = _token_rows(generator.prompts, pairs)
    found = _token_rows(builder, pairs)
    differing = sum(one != other for one, other in zip(own, found, strict=True))
    bf16, generator.bf16 = generator.bf16, False
    try:
        expected = generator.response_logp(pairs).logp.double().cpu()
    finally:
        generator.bf16 = bf16
    scored = torch.tensor(
        [_logp(model, generator, prompt, response) for prompt, response in found],
        dtype=torch.float64,
    )
    tokens = torch.tensor([len(response) for _, response in found])
    nats = float(((scored - expected).abs() / tokens).max())
    total = float((scored - expected).abs().max())
    return [
        Check(
            "generator: token ids",
            "pairs that differ",
            float(differing),
            0.0,
            len(pairs),
            differing == 0,
        ),
        Check(
            "generator: log-likelihoods",
            "largest difference (nats a token)",
            nats,
            MOST_NATS,
            len(pairs),
            nats <= MOST_NATS,  # False for NaN
        ),
        Check(
            "generator: whole responses",
            "largest difference (nats)",
            total,
            None,
            len(pairs),
            True,
        ),
    ]


def verify_silver(folder: Path, format: str, labels: Sequence[Label]) -> list[Check]:
    """Read silver labels back and compare them with what was found.

    Args:
        folder: what was written.
        format: its shape.
        labels: what should stand there.
    """
    stored = [json.loads(line) for line in _lines(folder / LABELS)]
    wrong = abs(len(stored) - len(labels))
    for row, label in zip(stored, labels, strict=False):
        weights = {one["id"]: one["weight"] for one in row["passages"]}
        wrong += row["id"] != label.id or weights != {
            one.passage.id: one.weight for one in label.found
        }
    checks = [_rows(f"silver: {LABELS}", wrong, len(labels))]
    found = _read_back(folder, format)
    checks.append(_rows(f"silver: rows shaped for {format}", found.malformed, len(found.rows)))
    expected = [
        (label.context.strip(), [one.passage.id for one in label.positive]) for label in labels
    ]
    if format != "triplets":  # their rows hold texts alone
        wrong = abs(len(found.rows) - len(expected)) + sum(
            one != other for one, other in zip(found.rows, expected, strict=False)
        )
        checks.append(_rows(f"silver: positives as {format}", wrong, len(found.rows)))
    return checks


class _Stored(NamedTuple):
    """Context and positive ids of each row, and how many rows lack or add a key."""

    rows: list[tuple[str, list[str]]]
    malformed: int


def _read_back(folder: Path, format: str) -> _Stored:
    if format == "beir":
        examples = load_dataset(format, data_dir=folder, splits=(SPLIT,)).splits[SPLIT]
        return _Stored(
            [(str(example.question), list(example.gold_passages)) for example in examples], 0
        )
    if format == "dpr":
        rows = json.loads((folder / f"{SPLIT}.json").read_text(encoding="utf-8"))
    else:
        rows = [json.loads(line) for line in _lines(folder / f"{SPLIT}.jsonl")]
    malformed = sum(set(row) != _KEYS[format] for row in rows)
    context, positives, identity = {
        "dpr": ("question", "positive_ctxs", "passage_id"),
        "tevatron": ("query", "positive_passages", "docid"),
        "triplets": ("anchor", "", ""),
    }[format]
    return _Stored(
        [
            (str(row.get(context)).strip(), [one[identity] for one in row.get(positives, ())])
            for row in rows
        ],
        malformed,
    )


@contextmanager
def _quiet_library() -> Iterator[None]:
    """Silence what sentence-transformers says about a default prompt: it is meant."""
    logger = logging.getLogger("sentence_transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cosine(what: str, found: Tensor, expected: Tensor, limit: float | None = None) -> Check:
    if not len(found):
        return Check(what, "lowest cosine", 1.0, limit, 0, True)
    if found.shape != expected.shape:
        return Check(what, "lowest cosine", 0.0, limit, len(found), False)
    lowest = float(functional.cosine_similarity(found.double(), expected.double()).min())
    # A cosine forgets lengths, which a run that does not normalise searches with.
    scale = float((found.norm(dim=1) / expected.norm(dim=1) - 1).abs().max())
    passed = limit is None or (lowest >= limit and scale <= 1 - limit + 1e-4)
    return Check(what, "lowest cosine", lowest, limit, len(found), passed)


def _rows(what: str, wrong: int, count: int) -> Check:
    return Check(what, "rows that differ", float(wrong), 0.0, count, wrong == 0)


def _lines(path: Path) -> list[str]:
    # Not splitlines(): texts may hold U+2028 and its like, which JSON leaves as they are.
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line]


def _load_language_model(folder: Path, generator: HFGenerator, *, adapter: bool) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    auto_class = AutoModelForSeq2SeqLM if generator.is_encoder_decoder else AutoModelForCausalLM
    place = str(folder)
    if adapter:
        beside = folder / BASE_FOLDER
        named = hub.read_model_json(place, "adapter_config.json") or {}
        place = str(beside) if beside.is_dir() else str(named.get("base_model_name_or_path"))
    model = hub.load_model(place, auto_class)
    return (load_adapter(model, str(folder)) if adapter else model).to(generator.device).eval()


def _token_rows(
    builder: PromptBuilder, pairs: Sequence[GeneratorInput]
) -> list[tuple[list[int], list[int]]]:
    """Prompt and response ids of each pair."""
    prompts = builder.prompts(pairs, reserve=builder.settings.max_response_tokens)
    responses = builder.responses([pair.response for pair in pairs])
    return list(zip(prompts, responses, strict=True))


def _logp(model: Any, generator: HFGenerator, prompt: list[int], response: list[int]) -> float:
    """log p(response | prompt) by the model's own logits, one pair a pass."""

    def row(ids: list[int]) -> Tensor:
        return torch.tensor([ids], device=generator.device)

    if generator.is_encoder_decoder:
        lead = generator.decoder_lead
        logits = model(
            input_ids=row(prompt), decoder_input_ids=row([*lead, *response[:-1]])
        ).logits[0, len(lead) - 1 :]
    else:
        logits = model(input_ids=row([*prompt, *response[:-1]])).logits[0, len(prompt) - 1 :]
    targets = torch.tensor(response, device=logits.device)[:, None]
    return float(logits.float().log_softmax(dim=-1).gather(1, targets).double().sum())
