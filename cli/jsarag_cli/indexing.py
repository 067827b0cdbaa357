"""Index folders outside training: made from a file and an encoder, described, checked, opened."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag_cli.output import note_choice

if TYPE_CHECKING:
    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.index.flat import FlatIndex
    from jsarag.index.manifest import Manifest
    from jsarag.models.encoder import TextEncoder
    from jsarag.train.reporting import Reporter

_ENCODER = "encoder"
_QUERY_TOKENS = 128
_PASSAGE_TOKENS = 160
_SPEC_FIELDS = ("query_prefix", "passage_prefix", "max_query_tokens", "max_passage_tokens")


@dataclass(frozen=True, slots=True)
class EncoderChoice:
    """Everything needed to load the encoder of an index again; kept in its manifest.

    ``name`` is 'minilm', a hub id, an absolute folder, or a run's folder, which has settings of its
    own. None takes the default, or the run's.
    """

    name: str
    pooling: str = "auto"
    query_prefix: str | None = None
    passage_prefix: str | None = None
    max_query_tokens: int | None = None
    max_passage_tokens: int | None = None

    def load(self, device: str) -> EncoderPair:
        """The encoders, on a device.

        Raises:
            ConfigError: a run's encoder, with settings other than the run's.
        """
        from jsarag.assemble import make_device
        from jsarag.models.encoder import load_encoder

        if self.is_run:
            return self._load_run(device)
        where = make_device(device)
        encoder = load_encoder(
            self.name,
            pooling=self.pooling,
            query_prefix=self.query_prefix or "",
            passage_prefix=self.passage_prefix or "",
            max_query_tokens=self.max_query_tokens or _QUERY_TOKENS,
            max_passage_tokens=self.max_passage_tokens or _PASSAGE_TOKENS,
        ).to(where)
        return EncoderPair(encoder, encoder)

    @property
    def is_run(self) -> bool:
        """Whether the encoders are a run's."""
        from jsarag.io.run_dir import RunDir

        return RunDir(Path(self.name).expanduser()).run_path.is_file()

    def _load_run(self, device: str) -> EncoderPair:
        from jsarag.errors import ConfigError
        from jsarag.runs import open_encoders

        retrievers = open_encoders(Path(self.name).expanduser(), device=device)
        spec = retrievers.passages.spec
        for flag, asked, own in (
            ("--pooling", None if self.pooling == "auto" else self.pooling, spec.pooling),
            ("--query-prefix", self.query_prefix, spec.query_prefix),
            ("--passage-prefix", self.passage_prefix, spec.passage_prefix),
            ("--max-context-tokens", self.max_query_tokens, spec.max_query_tokens),
            ("--max-passage-tokens", self.max_passage_tokens, spec.max_passage_tokens),
        ):
            if asked not in (None, own):
                raise ConfigError(
                    f"{flag}: expected {own!r}, with which the run {self.name} was trained, found "
                    f"{asked!r}; leave {flag} out"
                )
        return EncoderPair(retrievers.passages, retrievers.prior)


@dataclass(frozen=True, slots=True)
class EncoderPair:
    """What embeds an index's passages and what embeds its queries: often one encoder."""

    passages: TextEncoder
    queries: TextEncoder


def build_folder(
    kb_path: Path,
    choice: EncoderChoice,
    output: Path,
    *,
    dtype: str,
    batch_size: int,
    device: str,
    reporter: Reporter,
) -> None:
    """Embed a knowledge base and write the index folder.

    Raises:
        MemoryForecastError: it would not fit; said before anything is embedded.
        ConfigError: unknown dtype or encoder. DataError: the passages cannot be read.
    """
    from jsarag.index.memory import available_memory_bytes, forecast_index, require_memory
    from jsarag.index.rebuild import build_index
    from jsarag.models.prompts import passage_text

    require_dtype(dtype)
    kb = read_kb(kb_path, reporter)
    reporter.stage("load encoder", None)
    encoder = choice.load(device).passages
    forecast = forecast_index(len(kb), encoder.width, dtype)
    require_memory(forecast, available_memory_bytes())
    reporter.stage("embed passages", len(kb))
    index = build_index(
        encoder,
        kb,
        passage_text=passage_text,
        dtype=dtype,
        batch_size=batch_size,
        progress=lambda done, _: reporter.advance(done),
    )
    for line in encoder.truncation.summary().splitlines():
        reporter.event(line)
    index.save(output, kb, kept_facts(choice, encoder, kb_path))


def require_dtype(dtype: str) -> None:
    """Refuse a storage dtype there is not.

    Raises:
        ConfigError: names the nearest one.
    """
    from jsarag.config.keys import nearest
    from jsarag.errors import ConfigError
    from jsarag.index.shards import DTYPES

    if dtype not in DTYPES:
        guess = nearest(dtype, DTYPES)
        advice = f"; did you mean '{guess}'?" if guess else ""
        raise ConfigError(f"--dtype: expected one of {', '.join(DTYPES)}, got '{dtype}'{advice}")


def read_kb(path: Path, reporter: Reporter) -> KnowledgeBase:
    """The passages of a file; what was passed over is said.

    Raises:
        DataError: they cannot be read.
    """
    from jsarag.data.knowledge_base import KnowledgeBase
    from jsarag.data.rows import ReadStats

    reporter.stage("read passages", None)
    stats = ReadStats()
    kb = KnowledgeBase.read(path, stats=stats)
    for text in stats.notes(path.name):
        reporter.event(text)
    return kb


def kept_facts(choice: EncoderChoice, encoder: TextEncoder, kb_path: Path) -> dict[str, Any]:
    """What a manifest keeps so that the index can be opened again: its encoder and its name."""
    named = Path(choice.name).expanduser()
    kept = {
        **asdict(choice),
        "name": str(named.resolve()) if named.is_dir() else choice.name,
        # What was used, not what was asked for: defaults may change before the folder is opened.
        **{name: getattr(encoder.spec, name) for name in _SPEC_FIELDS},
    }
    return {_ENCODER: kept, "name": kb_path.stem}


def require_free(folder: Path, *, force: bool) -> None:
    """Refuse a place where an index lies, unless it may be replaced.

    Raises:
        ConfigError: one lies there.
    """
    from jsarag.errors import ConfigError
    from jsarag.io.atomic import is_complete

    if not force and is_complete(folder):
        raise ConfigError(
            f"--output {folder}: an index lies there already; replace it with --force, or name "
            "another folder"
        )


def index_of(path: Path) -> Path:
    """The index folder itself, or the one a run's last state searches.

    Raises:
        CheckpointError: a run without a checkpoint.
    """
    from jsarag.io.run_dir import RunDir
    from jsarag.runs import index_folder
    from jsarag.train.kept import served_checkpoint

    run_dir = RunDir(path)
    if not run_dir.run_path.is_file():
        return path
    generation = int(served_checkpoint(run_dir).state["progress"]["generation"])
    return index_folder(run_dir, "passages", generation)


def rebuild_run(run: Path, *, output: Path | None, device: str | None, reporter: Reporter) -> Path:
    """Embed a run's knowledge base with its last checkpoint's passage encoder; returns the folder.

    Without ``output`` the run's own folder of the current generation is replaced.

    Raises:
        ConfigError: that would change what the run is continued with.
    """
    from jsarag.assemble import make_index
    from jsarag.errors import ConfigError
    from jsarag.index.manifest import Manifest
    from jsarag.runs import index_folder, open_run

    reporter.stage("open run", None)
    opened = open_run(run, device=device)
    note_choice(opened)
    parts = opened.parts
    generation = parts.prior_index.generation
    folder = output or index_folder(opened.run_dir, "passages", generation)
    encoder = parts.retrievers.passages
    if (
        output is None
        and folder.is_dir()
        and Manifest.read(folder).encoder.get("weights_digest") != encoder.weights_digest()
    ):
        raise ConfigError(
            f"{folder}: made by an earlier state of the passage encoder, as between two rebuilds; "
            "the run needs exactly this index to be continued. Give --output FOLDER, or finish the "
            "run (it rebuilds its index at the end)"
        )
    reporter.stage("embed passages", len(parts.dataset.kb))
    index = make_index(
        opened.config,
        parts.retrievers,
        parts.dataset,
        generation=generation,
        progress=lambda done, _: reporter.advance(done),
    )
    index.save(folder, parts.dataset.kb, {"run": opened.run_dir.path.name})
    return folder


def describe(folder: Path) -> dict[str, Any]:
    """What an index folder holds in use, and its generations, as JSON types."""
    from jsarag.index.generations import current_folder, generations
    from jsarag.index.manifest import Manifest

    manifest = Manifest.read(current_folder(folder))
    records = [*(shard.record for shard in manifest.shards), *manifest.files.values()]
    return {
        "count": manifest.count,
        "width": manifest.width,
        "dtype": manifest.dtype,
        "generation": manifest.generation,
        "created": manifest.created,
        "jsarag": manifest.version,
        "bytes": sum(record.bytes for record in records),
        "files": len(records),
        "encoder": dict(manifest.encoder),
        "extra": dict(manifest.extra),
        "generations": [
            {
                "generation": one.number,
                "count": one.manifest.count,
                "created": one.manifest.created,
                "bytes": one.bytes,
                "change": one.manifest.extra.get("change"),
                "in_use": one.in_use,
            }
            for one in generations(folder)
        ],
    }


def find_problems(folder: Path, *, deep: bool) -> list[str]:
    """What is wrong with an index folder; ``deep`` reads it all and embeds a sample again."""
    from jsarag.index.generations import current_folder
    from jsarag.index.manifest import Manifest
    from jsarag.index.verify import verify

    problems = verify(folder, deep)
    if problems or not deep:
        return problems
    choice = encoder_choice(Manifest.read(current_folder(folder)))
    if choice is None:
        return []
    from jsarag.models.prompts import passage_text

    encoder = choice.load("cpu").passages
    return verify(
        folder,
        False,
        embed=lambda passages: encoder.embed([passage_text(one) for one in passages], "passage"),
    )


def encoder_choice(manifest: Manifest) -> EncoderChoice | None:
    """How to load the encoder of an index that ``jsarag index build`` made; None for a run's."""
    kept = manifest.extra.get(_ENCODER)
    return EncoderChoice(**kept) if isinstance(kept, dict) else None


def open_folder(
    folder: Path, device: str, *, check: bool = True
) -> tuple[FlatIndex, TextEncoder, str]:
    """An index folder of ``jsarag index build``: index, query encoder, name.

    Args:
        folder: the index.
        device: where its vectors and its encoder go.
        check: compare the vectors with their checksums.

    Raises:
        ConfigError: a run wrote the folder; its prior is the query encoder, so open the run.
        IndexStaleError: the encoder is no longer the one the index was built with.
    """
    from jsarag.errors import ConfigError
    from jsarag.index.flat import FlatIndex
    from jsarag.index.interfaces import index_spec
    from jsarag.index.manifest import Manifest

    manifest = Manifest.read(folder)
    choice = encoder_choice(manifest)
    if choice is None:
        owner = folder.resolve().parents[1] / "run.json"
        run = owner.parent if owner.is_file() else f"'{manifest.extra.get('run', 'unknown')}'"
        raise ConfigError(
            f"{folder}: this index belongs to a run, whose prior encodes the queries; give that "
            f"run's folder instead ({run})"
        )
    encoders = choice.load(device)
    index = FlatIndex.open(folder, index_spec(encoders.passages), check=check)
    return (
        index.to(encoders.passages.device),
        encoders.queries,
        str(manifest.extra.get("name") or folder.name),
    )
