"""Settings reach the objects that are made of them."""

from __future__ import annotations

from jsarag.assemble import make_encoder, make_generator
from jsarag.config.load import parse_set, resolve
from jsarag.data.knowledge_base import KnowledgeBase
from jsarag.data.registry import Dataset
from jsarag.types import Example, Passage


def test_responses_are_generated_so_many_at_once() -> None:
    row = Example(id="1", answers=("in the river",), question="where is the otter")
    data = Dataset(
        "x", KnowledgeBase([Passage("a", "the otter is in the river")]), {"train": [row]}
    )
    for assignments, size in (([], 32), (["eval.batch_size=3"], 3)):
        settings = resolve(overrides=[parse_set(text) for text in assignments], environment={})
        config = settings.config
        assert make_generator(config, make_encoder(config), data).micro_batch == size
