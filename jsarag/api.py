"""The command line's path from data to an export, for scripts: a thin door over the same modules.

``load_data`` reads a data set, :class:`Run` trains one or opens one and evaluates, searches and
exports it. Nothing is decided here that the command line decides otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsarag.config.keys import known_keys, optional_groups, resolve_path, unknown_key_error
from jsarag.config.load import Resolved, Setting, resolve_run
from jsarag.data.convert import convert
from jsarag.data.registry import Dataset, load_dataset
from jsarag.errors import ConfigError
from jsarag.types import Example, Hit

if TYPE_CHECKING:
    from jsarag.eval.evaluate import Evaluation
    from jsarag.export.write import Exported
    from jsarag.runs import OpenRun
    from jsarag.train.reporting import Reporter
    from jsarag.train.run import TrainResult

_NOTHING: Mapping[str, Any] = {}
_QUERIES = 64


def load_data(
    dataset: str | Path,
    *,
    data_dir: Path | str | None = None,
    splits: Sequence[str] = ("train", "dev"),
    field_map: Mapping[str, str] = _NOTHING,
) -> Dataset:
    """Read passages and rows: ``data.kb`` and ``data.splits["train"]``.

    Args:
        dataset: 'demo', a folder, or an official name with ``data_dir``.
        data_dir: where the named data set lies.
        splits: which to read.
        field_map: our field -> the file's field.

    Raises:
        DataError: unknown name, missing file or split, or a faulty row; says what to do.
    """
    return load_dataset(str(dataset), data_dir=data_dir, field_map=field_map, splits=splits)


def save_data(data: Dataset, folder: str | Path) -> Path:
    """Write a data set as a folder that ``Run.train`` and the command line read.

    Args:
        data: all its loaded splits are written.
        folder: new, empty, or written by this function before.

    Raises:
        DataError: the folder holds something else, or a row has no answer.
    """
    convert(data, folder)
    return Path(folder)


def resolve_settings(
    dataset: str | Path | None = None,
    *,
    recipe: str | None = None,
    config: str | Path | None = None,
    settings: Mapping[str, Any] = _NOTHING,
) -> Resolved:
    """The settings a run would have, each with its source; trains nothing.

    Args:
        dataset: as on the command line; None where recipe or file name it.
        recipe: a shipped recipe to start from.
        config: a YAML configuration.
        settings: dotted key -> value, such as ``{"train.max_steps": 20}``; come before all else.

    Raises:
        ConfigError: a key or value is wrong; names the key and the fix.
    """
    return resolve_run(
        dataset=None if dataset is None else str(dataset),
        recipe=recipe,
        file=config,
        overrides=_overrides(settings),
    )


class Run:
    """A run folder. Parts are loaded when they are first needed.

    Args:
        path: a run folder that :meth:`train` or ``jsarag train`` wrote.
        device: where to compute; None takes the run's own.

    Attributes:
        path: the folder.
        result: scores before and after, and which state was kept; None for a run not trained here.

    Raises:
        CheckpointError: no run folder.
    """

    def __init__(self, path: str | Path, *, device: str | None = None) -> None:
        from jsarag.io.run_dir import RunDir

        run_dir = RunDir(path)
        run_dir.identity()
        self.path = run_dir.path
        self.result: TrainResult | None = None
        self._device = device
        self._opened: OpenRun | None = None

    @classmethod
    def train(
        cls,
        dataset: str | Path | None = None,
        *,
        recipe: str | None = None,
        config: str | Path | None = None,
        settings: Mapping[str, Any] = _NOTHING,
        output_dir: str | Path | None = None,
        resume: bool = False,
        reporter: Reporter | None = None,
    ) -> Run:
        """Train retriever and generator; a folder that already holds this very run is continued.

        Args:
            dataset, recipe, config, settings: as for :func:`resolve_settings`.
            output_dir: the run folder; None takes ``runs/<data set>-<objective>-<seed>``.
            resume: refuse a folder that holds no run.
            reporter: told what happens (``jsarag.train.reporting.Reporter``); None tells nobody.

        Raises:
            ConfigError: a setting is wrong. DataError: the data cannot be read.
            CheckpointError: the folder belongs to something else.
            MemoryForecastError: the run would not fit.
            NumericalError, GuardError: a guard stopped the run; its state is saved.
        """
        from jsarag.train.run import run_training

        given = dict(settings)
        if output_dir is not None:
            given["output.output_dir"] = output_dir
        resolved = resolve_settings(dataset, recipe=recipe, config=config, settings=given)
        result = run_training(resolved, resume=resume, reporter=reporter)
        run = cls(result.run_dir)
        run.result = result
        return run

    @property
    def opened(self) -> OpenRun:
        """The run's configuration, models, indexes and data, in evaluation mode.

        Raises:
            CheckpointError: no complete checkpoint. DataError: its data are no longer there.
        """
        if self._opened is None:
            from jsarag.runs import open_run

            self._opened = open_run(self.path, device=self._device)
        return self._opened

    def evaluate(self, split: str | None = None) -> Evaluation:
        """Score retrieval and responses on a split; writes nothing.

        Args:
            split: None takes the run's ``eval.split``.

        Raises:
            DataError: the data set has no such split.
        """
        from jsarag.train.evaluation import evaluate_run

        opened = self.opened
        name = split or opened.config.eval.split
        if name not in opened.parts.dataset.splits:
            from jsarag.assemble import make_dataset

            more = make_dataset(opened.config, (name,)).splits[name]
            data = opened.parts.dataset
            opened.parts.dataset = replace(data, splits={**data.splits, name: more})
        return evaluate_run(opened, name)

    def search(self, query: str | Example, k: int = 10) -> list[Hit]:
        """The k best passages for a question, best first.

        Args:
            query: a question, or an example whose history is a dialogue; passages an example
                excludes are left out.
            k: at least 1; fewer hits where there are fewer passages.

        Raises:
            ConfigError: an empty query, or k below 1.
        """
        return self.search_many([query], k)[0]

    def search_many(self, queries: Iterable[str | Example], k: int = 10) -> list[list[Hit]]:
        """:meth:`search` for many queries, in batches."""
        import torch

        from jsarag.index.rows import excluded_rows, hits_of

        if k < 1:
            raise ConfigError(f"search: k: expected at least 1, found {k}; raise it")
        examples = [_example(query) for query in queries]
        opened = self.opened
        parts, turns = opened.parts, opened.config.data.context_turns
        found: list[list[Hit]] = []
        for start in range(0, len(examples), _QUERIES):
            batch = examples[start : start + _QUERIES]
            with torch.no_grad():
                vectors = parts.retrievers.encode_contexts(batch, turns)
                exclude = excluded_rows(parts.dataset.kb, batch, vectors.device)
                scan = parts.prior_index.search(vectors, k, exclude=exclude)
            rows, scores = scan.ids.tolist(), scan.scores.tolist()
            found += [
                list(hits_of(parts.dataset.kb, *pair)) for pair in zip(rows, scores, strict=True)
            ]
        return found

    def export(
        self,
        dest: str | Path,
        to: str = "sentence-transformers",
        *,
        part: str | None = None,
        format: str | None = None,
        adapter: bool = False,
        verify: bool = False,
        force: bool = False,
    ) -> Exported:
        """Write encoders, generator or labels for other tools (``docs/export.md``).

        Args:
            dest: the folder to write.
            to: 'sentence-transformers', 'hf' or 'silver'.
            part: 'prior', 'posterior', 'passages' or 'generator'; None takes all ``to`` reads.
            format: of silver labels: 'dpr', 'tevatron', 'triplets' or 'beir'.
            adapter: leave LoRA as an adapter folder.
            verify: load the result in that tool and compare.
            force: replace an earlier export.

        Raises:
            ConfigError: the run has no such part, or ``dest`` holds something else.
            ExportMismatchError: the result, loaded in the foreign tool, gives other numbers.
            BackendUnavailableError: ``verify`` needs a package that is not installed.
        """
        from jsarag.export.request import Request
        from jsarag.export.write import export

        request = Request(to, part, adapter, format, verify=verify, force=force)
        return export(self.opened, dest, request)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"


def _overrides(settings: Mapping[str, Any]) -> list[Setting]:
    found = []
    for key, value in settings.items():
        source = f"settings['{key}']"
        known = known_keys().get(key)
        if known is not None:
            if isinstance(value, Path):
                value = str(value.expanduser().absolute())
            value = resolve_path(known, value, Path.cwd())
        elif value is not None or key not in optional_groups():
            raise unknown_key_error(key, source)
        found.append(Setting(key, value, source))
    return found


def _example(query: str | Example) -> Example:
    if isinstance(query, Example):
        return query
    if not query.strip():
        raise ConfigError("search: expected a question, found an empty text; give it words")
    return Example("query", ("",), question=query)
