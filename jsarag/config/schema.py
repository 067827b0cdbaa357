"""Every setting of a run, in one file; extra keys are errors.

A setting is declared once: type, default, bounds, meaning, flag, unit, and whether a continued run
may change it. Messages, `jsarag train --schema` and docs/settings.md are made of that, and
jsarag_cli/settings.py is held to it. Nothing here reads files, and nothing below ``assemble`` sees
these classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jsarag.types import Estimator, Likelihood, Start, Support


class Group(BaseModel):
    """A named group of settings: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


def setting(
    default: Any,
    meaning: str,
    *,
    flag: str = "",
    unit: str = "",
    resume: bool = False,
    **bounds: Any,
) -> Any:
    """One setting of a group.

    Args:
        default: where nobody says otherwise.
        meaning: what it does, for who reads the table of settings.
        flag: of the command line, without dashes.
        unit: what it counts.
        resume: whether a continued run may change it.
        bounds: ``ge``, ``gt``, ``le``, ``lt``.
    """
    about: dict[str, Any] = {"flag": flag, "unit": unit, "may_change_on_resume": resume}
    return Field(default=default, description=meaning, json_schema_extra=about, **bounds)


class DataConfig(Group):
    """Which rows are read and how much of a dialogue each part sees."""

    dataset: str = setting("demo", "a recipe's data set or a folder with kb.jsonl")
    data_dir: Path | None = setting(
        None, "where a data set's official files lie", flag="data-dir", resume=True
    )
    map: dict[str, str] = setting({}, "our field -> the file's field", flag="map")
    context_turns: int = setting(3, "last turns the prior retriever reads", ge=1, unit="turns")
    posterior_turns: int = setting(1, "last turns the posterior reads", ge=0, unit="turns")
    generator_turns: int = setting(3, "last turns the generator reads", ge=1, unit="turns")
    max_train_examples: int | None = setting(None, "train on the first n rows", ge=1, unit="rows")
    dev_fraction: float | None = setting(
        None,
        "where there is no dev split: cut it off train",
        gt=0,
        lt=1,
        flag="dev-fraction",
    )


class RetrieverConfig(Group):
    """The encoders. Prior and posterior context encoders start as copies of one model."""

    model: str = setting(
        "minilm", "'minilm' (packaged, offline), a folder, or a hub id", flag="retriever"
    )
    pooling: Literal["auto", "mean", "cls", "last"] = setting(
        "auto", "how token states become a vector; auto: as the model's own files say, else mean"
    )
    normalise: bool = setting(True, "vectors of length 1")
    query_prefix: str = setting("", "text before every context, as the model was trained with")
    passage_prefix: str = setting("", "text before every passage, as the model was trained with")
    posterior_template: str = setting(
        "{context} {separator} {response}", "what the posterior retriever reads"
    )
    max_context_tokens: int = setting(
        128, "a context's last tokens that are read", ge=8, unit="tokens"
    )
    max_passage_tokens: int = setting(
        160,
        "a passage's first tokens that are read; set by nobody: what 99.5 % of the passages need",
        ge=8,
        unit="tokens",
    )
    passage_encoder: Literal["shared", "separate"] = setting(
        "shared", "one for both retrievers, or one each"
    )
    temperature: float = setting(
        0.05, "scores are divided by it in the retrievers' softmax", gt=0, flag="temperature"
    )


class LoraConfig(Group):
    """Low-rank adaptation of a Hugging Face generator (needs the ``lora`` extra)."""

    rank: int = setting(8, "of the adapters", ge=1)
    alpha: float = setting(16.0, "the adapters' output is multiplied by alpha / rank")
    dropout: float = setting(0.0, "on the way back only", ge=0, lt=1)
    target_modules: list[str] | None = setting(
        None, "names of the adapted linear layers; none: all but the output head"
    )


class GeneratorConfig(Group):
    """p(y | x, h)."""

    model: str = setting(
        "copy",
        "'copy', 'query-likelihood', 'smollm2' (packaged, offline), a folder, a GGUF file, or a "
        "hub id (causal or seq2seq model)",
        flag="generator",
    )
    template: str = setting(
        "{title} {passage}\n{context}\n",
        "text with {title}, {passage} and {context}; 'chat' takes the model's own",
    )
    lora: LoraConfig | None = None
    max_context_tokens: int = setting(
        96, "a context's last tokens that are read", ge=8, unit="tokens"
    )
    max_passage_tokens: int = setting(
        160,
        "a passage's first tokens that are read; set by nobody: what 99.5 % of the passages need",
        ge=8,
        unit="tokens",
    )
    max_response_tokens: int = setting(
        48, "a response's first tokens that are scored", ge=2, unit="tokens"
    )
    layers: int = setting(2, "decoder layers of the copy generator", ge=1)
    copy_vocabulary: int = setting(8000, "words the copy generator can write", ge=100, unit="words")
    unigram_weight: float = setting(0.5, "1 - lambda of query-likelihood", gt=0, lt=1)
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = setting(
        "auto", "a language model's implementation of attention"
    )


class ObjectiveConfig(Group):
    """What is maximised, over which support, with which estimator of the E-step."""

    name: str = setting("jsa", "which one: a file in jsarag/em/objectives", flag="objective")
    support: Support = setting(
        "kb",
        "passages that are summed over: the prior's top k, the union of both retrievers', those of "
        "the batch, or the whole knowledge base",
        flag="support",
    )
    estimator: Estimator = setting("snis", "of the E-step's expectation", flag="estimator")
    likelihood: Likelihood = setting(
        "sum", "of a response's tokens: their sum or their mean", flag="likelihood"
    )
    k: int = setting(8, "candidates per retriever", ge=1, le=2048, flag="k", unit="passages")
    mis_steps: int = setting(16, "draws per example and step", ge=1, flag="mis-steps", unit="draws")
    start: Start = setting(
        "prior", "who finds the lists that an objective judges once (wrag), before training"
    )
    evidence_weight: float = setting(
        1.0, "factor on log p(y|x,h) in the weights; 0 switches the evidence off", ge=0
    )
    detach_posterior_from_passages: bool = setting(
        True, "log q gives a shared passage encoder no gradient (keeps Fisher's identity)"
    )
    backprop_cutoff: float = setting(
        1e-4, "passages of less weight give the generator no gradient; 0 drops none", ge=0, lt=1
    )
    mstep_passages: int = setting(
        0, "pairs an example drawn by weight for the generator's gradient; 0: all", ge=0
    )


class TrainConfig(Group):
    """Optimisation and schedule. Steps are optimizer steps everywhere."""

    max_steps: int = setting(
        100,
        "end of training; set by nobody: ten passes over the rows, at most 100",
        ge=0,
        flag="max-steps",
        unit="steps",
        resume=True,
    )
    max_seconds: float | None = setting(
        None,
        "stop at this much training time; the learning rate falls with it",
        gt=0,
        flag="max-seconds",
        unit="s",
        resume=True,
    )
    max_generator_forwards: int | None = setting(
        None,
        "stop after this many (example, passage) pairs through the generator; the learning rate "
        "falls with it",
        gt=0,
        unit="pairs",
        resume=True,
    )
    batch_size: int = setting(16, "examples at once", ge=1, flag="batch-size", unit="examples")
    gradient_accumulation_steps: int = setting(
        1, "batches per step", ge=1, flag="gradient-accumulation-steps", unit="batches"
    )
    chunk_tokens: int | None = setting(
        None,
        "tokens through the generator at once (encoders: four times as many); none: found by "
        "trying before the first step",
        ge=64,
        unit="tokens",
        resume=True,
    )
    learning_rate: float = setting(
        2e-5, "of prior and posterior retrievers", gt=0, flag="learning-rate", resume=True
    )
    generator_learning_rate: float = setting(3e-4, "of the generator", gt=0, resume=True)
    betas: tuple[float, float] = setting((0.9, 0.95), "of AdamW")
    weight_decay: float = setting(0.01, "of AdamW", ge=0)
    clip_norm: float = setting(1.0, "largest norm of each part's gradient", gt=0, resume=True)
    warmup_steps: int = setting(
        10, "in which the learning rate rises", ge=0, flag="warmup-steps", unit="steps"
    )
    schedule: Literal["constant", "linear", "cosine"] = setting(
        "linear", "how the learning rate falls afterwards"
    )
    freeze: list[Literal["prior", "posterior", "passages", "generator"]] = setting(
        ["passages"], "parts that are not trained", flag="freeze"
    )
    generator_warmup_steps: int = setting(
        0, "first train p(y|x,h) on the posterior's own top passages", ge=0, unit="steps"
    )
    generator_warmup_top: int = setting(4, "how many of them per example", ge=1, unit="passages")
    concat_steps: int = setting(
        0, "second stage: NLL on joined passages", ge=0, unit="steps", resume=True
    )
    concat_passages: int = setting(4, "joined in one prompt there", ge=1, unit="passages")
    bf16: bool | None = setting(
        None,
        "networks in bfloat16; none: a language model's precision is found by trying, encoders "
        "stay in float32",
        flag="bf16",
        resume=True,
    )
    held_back: int | None = setting(
        None,
        "training rows not trained on, which say what state to keep; none: a tenth, at most 64; 0: "
        "no watch",
        ge=0,
        unit="rows",
    )
    watch: Literal["auto", "likelihood"] = setting(
        "auto",
        "how states are measured: by gold where all held-back rows have it, or without labels",
    )
    keep: Literal["best", "last"] = setting(
        "best", "the state a run ends with and serves", resume=True
    )
    device: str = setting("auto", "where to compute: auto, cpu or cuda", flag="device", resume=True)
    threads: int | None = setting(
        None, "of the processor; none: as many as torch takes", ge=1, resume=True
    )
    seed: int = setting(1, "of every random number", flag="seed")
    eval_steps: int = setting(
        0,
        "evaluate every so many; 0: only before and after training",
        ge=0,
        flag="eval-steps",
        unit="steps",
        resume=True,
    )
    save_steps: int = setting(
        0,
        "save every so many; 0: only at the end",
        ge=0,
        flag="save-steps",
        unit="steps",
        resume=True,
    )
    log_steps: int = setting(10, "log every so many", ge=1, unit="steps", resume=True)
    keep_checkpoints: int = setting(
        2, "the last ones that stay on disk", ge=1, unit="checkpoints", resume=True
    )


class IndexConfig(Group):
    """The passage index."""

    backend: Literal["flat"] = setting("flat", "exact, the only one that training draws from")
    dtype: Literal["f32", "bf16", "f16"] = setting("f32", "of the stored vectors")
    rebuild_every: str = setting(
        "",
        "'start-end:every,...' in steps; empty: never; needs trained passages",
        flag="rebuild-every",
        unit="steps",
    )
    batch_size: int = setting(64, "passages embedded at once", ge=1, unit="passages", resume=True)
    verify: Literal["open", "never"] = setting(
        "open", "when vectors are compared with their checksums", resume=True
    )
    placement: Literal["replicated", "sharded"] = setting(
        "replicated",
        "of several processes, each holds all passages' vectors, or its share of them",
        resume=True,
    )
    cache_dir: Path | None = setting(None, "keep and reuse unchanged embeddings", resume=True)
    path: Path | None = setting(
        None,
        "an index folder of these passages and this encoder; nothing is embedded then",
        flag="index",
        resume=True,
    )


class EvalConfig(Group):
    """What evaluation measures."""

    split: str = setting("dev", "the data set's part that is evaluated")
    k: int = setting(
        10, "passages retrieved per example", ge=1, flag="k", unit="passages", resume=True
    )
    decoding: Literal["top1", "concat", "rag-sequence", "rag-sequence-fast", "rag-token"] = setting(
        "top1", "how responses are made from passages", flag="decoding", resume=True
    )
    decoding_passages: int = setting(
        4, "that a response is made from, but for top1", ge=1, unit="passages", resume=True
    )
    max_examples: int | None = setting(
        None,
        "generate for the first n rows",
        ge=1,
        flag="max-examples",
        unit="rows",
        resume=True,
    )
    batch_size: int = setting(
        32, "responses generated at once", ge=1, unit="responses", resume=True
    )
    max_new_tokens: int = setting(
        40, "a response's length at most", ge=1, unit="tokens", resume=True
    )
    bootstrap_samples: int = setting(2000, "for the intervals", ge=100, unit="samples", resume=True)
    generation: bool = setting(True, "score responses, too", flag="generation", resume=True)


class GuardConfig(Group):
    """When a run warns or stops by itself."""

    strict: bool = setting(
        False, "stop where the likelihood has no evidence", flag="strict", resume=True
    )
    evidence_examples: int = setting(
        64, "rows of the check for evidence", ge=8, unit="rows", resume=True
    )
    evidence_passages: int = setting(
        8, "compared with each other per row", ge=3, unit="passages", resume=True
    )
    evidence_every: int = setting(
        50, "re-check during training; 0: only before", ge=0, unit="steps", resume=True
    )
    min_distinct_ratio: float = setting(
        0.05,
        "distinct first passages / how many there could be; below it a run stops",
        ge=0,
        le=1,
        resume=True,
    )
    collapse_window: int = setting(
        20, "steps that the ratio is taken over", ge=1, unit="steps", resume=True
    )


class OutputConfig(Group):
    """Where results go."""

    output_dir: Path | None = setting(
        None,
        "the run's folder; none: runs/<dataset>-<objective>-<seed>",
        flag="output-dir",
        resume=True,
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = setting(
        [], "trackers to tell as well (the 'track' extra)", flag="report-to", resume=True
    )


class Config(Group):
    """A whole run."""

    data: DataConfig = DataConfig()
    retriever: RetrieverConfig = RetrieverConfig()
    generator: GeneratorConfig = GeneratorConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    index: IndexConfig = IndexConfig()
    eval: EvalConfig = EvalConfig()
    guards: GuardConfig = GuardConfig()
    output: OutputConfig = OutputConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.objective.name == "rag" and self.objective.support == "union":
            raise ValueError(
                "objective.support: 'rag' marginalises over the prior's top k ('prior') or over "
                "all passages ('kb'); 'union' needs a posterior, which it has none of"
            )
        if self.index.rebuild_every and "passages" in self.train.freeze:
            raise ValueError(
                "index.rebuild_every: the passage encoder is frozen (train.freeze contains "
                "'passages'), so the index never changes; drop one of the two settings"
            )
        if self.index.path is not None and "passages" not in self.train.freeze:
            raise ValueError(
                "index.path: the passage encoder is trained (train.freeze lacks 'passages'), so "
                "these vectors would not stay its own; freeze 'passages', or leave the index out "
                "and let the run embed"
            )
        return self
