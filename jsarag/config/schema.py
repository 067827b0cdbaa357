"""Every setting of a run, in one file; extra keys are errors.

Names match the command line (``objective.mis_steps`` is ``--mis-steps``). Nothing here reads files,
and nothing below ``assemble`` sees these classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from jsarag.types import Estimator, Likelihood, Start, Support


class Group(BaseModel):
    """A named group of settings: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )


class DataConfig(Group):
    """Which rows are read and how much of a dialogue each part sees."""

    dataset: str = Field(
        default="demo", description="a recipe's data set or a folder with kb.jsonl"
    )
    data_dir: Path | None = Field(default=None, description="where a data set's official files lie")
    map: dict[str, str] = Field(default_factory=dict, description="our field -> the file's field")
    context_turns: int = Field(default=3, ge=1, description="last turns the prior retriever reads")
    posterior_turns: int = Field(default=1, ge=0, description="last turns the posterior reads")
    generator_turns: int = Field(default=3, ge=1, description="last turns the generator reads")
    max_train_examples: int | None = Field(
        default=None, ge=1, description="train on the first n rows"
    )
    dev_fraction: float | None = Field(
        default=None, gt=0, lt=1, description="where there is no dev split: cut it off train"
    )


class RetrieverConfig(Group):
    """The encoders. Prior and posterior context encoders start as copies of one model."""

    model: str = Field(
        default="minilm", description="'minilm' (packaged, offline), a folder, or a hub id"
    )
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    normalise: bool = True
    query_prefix: str = ""
    passage_prefix: str = ""
    posterior_template: str = "{context} {separator} {response}"
    max_context_tokens: int = Field(default=128, ge=8)
    max_passage_tokens: int = Field(
        default=160, ge=8, description="set by nobody: what 99.5 % of the passages need"
    )
    passage_encoder: Literal["shared", "separate"] = "shared"
    temperature: float = Field(default=0.05, gt=0)


class LoraConfig(Group):
    """Low-rank adaptation of a Hugging Face generator (needs the ``lora`` extra)."""

    rank: int = Field(default=8, ge=1)
    alpha: float = 16.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: list[str] | None = None


class GeneratorConfig(Group):
    """p(y | x, h)."""

    model: str = Field(
        default="copy",
        description="'copy', 'query-likelihood', 'smollm2' (packaged, offline), a folder, a GGUF "
        "file, or a hub id (causal or seq2seq model)",
    )
    template: str = Field(
        default="{title} {passage}\n{context}\n",
        description="text with {title}, {passage} and {context}; 'chat' takes the model's own",
    )
    lora: LoraConfig | None = None
    max_context_tokens: int = Field(default=96, ge=8)
    max_passage_tokens: int = Field(
        default=160, ge=8, description="set by nobody: what 99.5 % of the passages need"
    )
    max_response_tokens: int = Field(default=48, ge=2)
    layers: int = Field(default=2, ge=1, description="decoder layers of the copy generator")
    copy_vocabulary: int = Field(
        default=8000, ge=100, description="words the copy generator can write"
    )
    unigram_weight: float = Field(
        default=0.5, gt=0, lt=1, description="1 - lambda of query-likelihood"
    )
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = "auto"


class ObjectiveConfig(Group):
    """What is maximised, over which support, with which estimator of the E-step."""

    name: str = "jsa"
    support: Support = "kb"
    estimator: Estimator = "snis"
    likelihood: Likelihood = "sum"
    k: int = Field(default=8, ge=1, le=2048)
    mis_steps: int = Field(default=16, ge=1)
    start: Start = Field(
        default="prior",
        description="who finds the lists that an objective judges once (wrag), before training",
    )
    evidence_weight: float = Field(
        default=1.0,
        ge=0,
        description="factor on log p(y|x,h) in the weights; 0 switches the evidence off",
    )
    detach_posterior_from_passages: bool = Field(
        default=True,
        description="log q gives a shared passage encoder no gradient (keeps Fisher's identity)",
    )
    backprop_cutoff: float = Field(
        default=1e-4,
        ge=0,
        lt=1,
        description="passages of less weight give the generator no gradient; 0 drops none",
    )
    mstep_passages: int = Field(
        default=0,
        ge=0,
        description="pairs an example drawn by weight for the generator's gradient; 0: all",
    )


class TrainConfig(Group):
    """Optimisation and schedule. Steps are optimizer steps everywhere."""

    max_steps: int = Field(
        default=100, ge=0, description="set by nobody: ten passes over the rows, at most 100"
    )
    max_seconds: float | None = Field(
        default=None,
        gt=0,
        description="stop at this much training time; the learning rate falls with it",
    )
    max_generator_forwards: int | None = Field(
        default=None,
        gt=0,
        description="stop after this many (example, passage) pairs through the generator; the "
        "learning rate falls with it",
    )
    batch_size: int = Field(default=16, ge=1)
    gradient_accumulation_steps: int = Field(default=1, ge=1)
    chunk_tokens: int | None = Field(
        default=None,
        ge=64,
        description="tokens through the generator at once (encoders: four times as many); "
        "none: found by trying before the first step",
    )
    learning_rate: float = Field(default=2e-5, gt=0, description="prior and posterior retrievers")
    generator_learning_rate: float = Field(default=3e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(default=0.01, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    warmup_steps: int = Field(default=10, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    freeze: list[Literal["prior", "posterior", "passages", "generator"]] = ["passages"]
    generator_warmup_steps: int = Field(
        default=0, ge=0, description="first train p(y|x,h) on the posterior's own top passages"
    )
    generator_warmup_top: int = Field(default=4, ge=1)
    concat_steps: int = Field(default=0, ge=0, description="second stage: NLL on joined passages")
    concat_passages: int = Field(default=4, ge=1)
    bf16: bool | None = Field(
        default=None,
        description="networks in bfloat16; none: a language model's precision is found by trying, "
        "encoders stay in float32",
    )
    held_back: int | None = Field(
        default=None,
        ge=0,
        description="training rows not trained on, which say what state to keep; none: a tenth, at "
        "most 64; 0: no watch",
    )
    watch: Literal["auto", "likelihood"] = Field(
        default="auto",
        description="how states are measured: by gold where all held-back rows have it, or "
        "without labels",
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="the state a run ends with and serves"
    )
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)
    seed: int = 1
    eval_steps: int = Field(default=0, ge=0, description="0: only before and after training")
    save_steps: int = Field(default=0, ge=0, description="0: only at the end")
    log_steps: int = Field(default=10, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)


class IndexConfig(Group):
    """The passage index."""

    backend: Literal["flat"] = Field(
        default="flat", description="exact, the only one that training draws from"
    )
    dtype: Literal["f32", "bf16", "f16"] = "f32"
    rebuild_every: str = Field(
        default="",
        description="'start-end:every,...' in steps; empty: never; needs trained passages",
    )
    batch_size: int = Field(default=64, ge=1)
    verify: Literal["open", "never"] = Field(
        default="open", description="when vectors are compared with their checksums"
    )
    placement: Literal["replicated", "sharded"] = Field(
        default="replicated",
        description="of several processes, each holds all passages' vectors, or its share of them",
    )
    cache_dir: Path | None = Field(default=None, description="keep and reuse unchanged embeddings")
    path: Path | None = Field(
        default=None,
        description="an index folder of these passages and this encoder; nothing is embedded then",
    )


class EvalConfig(Group):
    """What evaluation measures."""

    split: str = "dev"
    k: int = Field(default=10, ge=1)
    decoding: Literal["top1", "concat", "rag-sequence", "rag-sequence-fast", "rag-token"] = "top1"
    decoding_passages: int = Field(default=4, ge=1)
    max_examples: int | None = Field(
        default=None, ge=1, description="generate for the first n rows"
    )
    max_new_tokens: int = Field(default=40, ge=1)
    bootstrap_samples: int = Field(default=2000, ge=100)
    generation: bool = True


class GuardConfig(Group):
    """When a run warns or stops by itself."""

    strict: bool = Field(default=False, description="stop where the likelihood has no evidence")
    evidence_examples: int = Field(default=64, ge=8)
    evidence_passages: int = Field(default=8, ge=3)
    evidence_every: int = Field(
        default=50, ge=0, description="re-check during training; 0: only before"
    )
    min_distinct_ratio: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="distinct retrieved passages / retrieved, over a window",
    )
    collapse_window: int = Field(default=20, ge=1)


class OutputConfig(Group):
    """Where results go."""

    output_dir: Path | None = Field(
        default=None, description="default runs/<dataset>-<objective>-<seed>"
    )
    report_to: list[Literal["tensorboard", "wandb", "trackio"]] = Field(
        default=[], description="trackers to tell as well (the 'track' extra)"
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
