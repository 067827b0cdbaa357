"""A run's encoders as folders that ``SentenceTransformer(folder)`` loads as they are.

Writes that library's files without importing it: weights and tokeniser by transformers, beside them
how to pool, to normalise, to compare, and the prompts.
"""

from __future__ import annotations

import copy
import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jsarag.errors import ConfigError
from jsarag.io.atomic import write_json
from jsarag.models import hub
from jsarag.models.encoder import SPEC_FILE, Role, TextEncoder
from jsarag.models.retrievers import PartName, RetrieverParts

# The names every version of the library since 2 resolves; newer ones have others besides.
_MODULES = "sentence_transformers.models"
_POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "last": "pooling_mode_lasttoken",
}


def role_of(part: PartName) -> Role:
    """What an encoder reads: 'query' for prior and posterior, 'passage' for the others."""
    return "query" if part in ("prior", "posterior") else "passage"


def token_limit(encoder: TextEncoder, role: Role) -> int:
    """Tokens read of a text, prompt and special tokens included."""
    spec = encoder.spec
    return spec.max_query_tokens if role == "query" else spec.max_passage_tokens


def parts_to_write(
    retrievers: RetrieverParts, part: str | None, *, posterior: bool
) -> list[PartName]:
    """The encoders a request names; None names all that were trained or searched.

    Args:
        retrievers: the run's.
        part: a part's name with dashes.
        posterior: whether the objective trains one.
    """
    return [
        name
        for name in retrievers.parts()
        if (posterior or not name.startswith("posterior"))
        and part in (None, name.replace("_", "-"))
    ]


def similarity(encoder: TextEncoder) -> str:
    """The library's name for the score the run searches with."""
    return "cosine" if encoder.spec.normalise else "dot"


def write_encoder(encoder: TextEncoder, role: Role, folder: Path) -> None:
    """Write one encoder.

    Args:
        encoder: as trained.
        role: whose limit and whose end of a long text are kept.
        folder: an existing, empty folder.

    Raises:
        ConfigError: an encoder of an encoder-decoder model that the library cannot load.
    """
    network, tokenizer, spec = _loadable(encoder), _tokenizer(encoder, role), encoder.spec
    with hub.quiet_transformers():
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    write_json(folder / SPEC_FILE, asdict(spec))
    write_json(folder / "modules.json", _modules(normalise=spec.normalise))
    write_json(
        folder / "sentence_bert_config.json",
        {
            "max_seq_length": token_limit(encoder, role),
            "do_lower_case": False,
            "model_args": _model_arguments(network),
        },
    )
    for name in ("1_Pooling", "2_Normalize") if spec.normalise else ("1_Pooling",):
        (folder / name).mkdir()
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": encoder.width,
            **{flag: spec.pooling == name for name, flag in _POOLING_FLAGS.items()},
        },
    )
    prompt = spec.query_prefix if role == "query" else spec.passage_prefix
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "prompts": {
                "query": spec.query_prefix,
                "passage": spec.passage_prefix,
                # What encode_document takes before 'passage', and '' where it is not given.
                "document": spec.passage_prefix,
            },
            # Without a prompt_name, too, a text gets the prompt this encoder was trained with.
            "default_prompt_name": role if prompt else None,
            "similarity_fn_name": similarity(encoder),
        },
    )


def _modules(*, normalise: bool) -> list[dict[str, Any]]:
    named = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    return [
        {"idx": place, "name": str(place), "path": path, "type": f"{_MODULES}.{kind}"}
        for place, (path, kind) in enumerate(named if normalise else named[:2])
    ]


def _model_arguments(network: Any) -> dict[str, Any]:
    """Keeps the library from adding a pooler with random weights that nothing reads."""
    known = inspect.signature(type(network).__init__).parameters
    return {"add_pooling_layer": False} if "add_pooling_layer" in known else {}


def _tokenizer(encoder: TextEncoder, role: Role) -> Any:
    tokenizer = copy.deepcopy(encoder.tokenizer)
    # A long query keeps its end, a long passage its beginning.
    tokenizer.truncation_side = "left" if role == "query" else "right"
    tokenizer.padding_side = "right"
    if tokenizer.pad_token_id is None:
        # Padding is masked, so any token does; the library asks for one.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    return tokenizer


def _loadable(encoder: TextEncoder) -> Any:
    """The network as the library loads it: T5's encoder with the embeddings under their name."""
    network: Any = encoder.model
    name = type(network).__name__
    if name.endswith("Stack"):
        import transformers

        whole = getattr(transformers, f"{name.removesuffix('Stack')}EncoderModel", None)
        if whole is not None:
            wrapped = whole(network.config)
            wrapped.encoder = network
            wrapped.shared = network.get_input_embeddings()
            return wrapped.eval()
    if name.endswith(("Stack", "Encoder")):
        raise ConfigError(
            f"--to sentence-transformers: expected an encoder model or T5's encoder; "
            f"'{encoder.spec.model}' is the encoder half of an encoder-decoder model ({name}), "
            "which that library cannot load alone"
        )
    return network
