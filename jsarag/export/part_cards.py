"""What each kind of export says on its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from jsarag.export import card
from jsarag.export.card import Facts
from jsarag.export.generator import BASE_FOLDER, converted_base
from jsarag.export.origin import origin_of
from jsarag.export.request import Request, trains_posterior
from jsarag.export.sentence_transformers import role_of, similarity, token_limit
from jsarag.export.silver import Count
from jsarag.export.silver_formats import LABELS
from jsarag.models.chat import CHAT
from jsarag.models.encoder import TextEncoder
from jsarag.models.hf_generator import HFGenerator
from jsarag.models.retrievers import PartName, RetrieverParts

_TAGS = ("sentence-transformers", "sentence-similarity", "feature-extraction")
_READS = {
    "prior": "The prior retriever's query encoder: it reads a question or the last turns of a "
    "dialogue. This is the encoder to search with.",
    "posterior": "The posterior retriever's query encoder: it reads a context *and its response*, "
    "so it finds the passage an answer came from. It serves to label data, not to search for users "
    "who have no answer yet.",
    "passages": "The passage encoder that prior and posterior search: it reads passages.",
    "posterior_passages": "The posterior retriever's own passage encoder: it reads passages.",
}


def write_encoder_card(
    folder: Path, facts: Facts, retrievers: RetrieverParts, part: PartName
) -> None:
    """The card of one encoder."""
    encoder, base = retrievers.parts()[part], origin_of(facts.config.retriever.model)
    scored = ["posterior"] if part.startswith("posterior") else ["prior"]
    if part == "passages" and trains_posterior(facts.config):
        scored = ["prior"] if retrievers.has_separate_passages else ["prior", "posterior"]
    card.write_card(
        folder,
        card.head(
            facts,
            base,
            library="sentence-transformers",
            pipeline="sentence-similarity",
            tags=_TAGS,
            retrievers=scored,
        ),
        [
            f"# {facts.run}: {part.replace('_', ' ')}",
            _READS[part],
            _loading(part),
            _reading(encoder, part),
            _posterior_input(facts, retrievers) if part == "posterior" else "",
            card.scores(facts, scored),
            card.training(facts, base),
        ],
    )


def write_encoders_card(folder: Path, facts: Facts, parts: Sequence[PartName]) -> None:
    """The card above several encoders' folders."""
    base = origin_of(facts.config.retriever.model)
    listed = [f"- `{name.replace('_', '-')}/`: {_READS[name]}" for name in parts]
    card.write_card(
        folder,
        {"library_name": "sentence-transformers", "license": base.licence, "tags": ["jsarag"]},
        [
            f"# {facts.run}: retrievers",
            "\n".join(["One folder an encoder, each with its own card:", "", *listed]),
            "\n".join(
                [
                    "```python",
                    "from sentence_transformers import SentenceTransformer",
                    "",
                    'queries = SentenceTransformer("FOLDER/prior")',
                    'passages = SentenceTransformer("FOLDER/passages")',
                    'found = queries.encode(["a question"], prompt_name="query")',
                    'stored = passages.encode(["Title: a passage"], prompt_name="passage")',
                    "print(queries.similarity(found, stored))",
                    "```",
                ]
            ),
            card.training(facts, base),
        ],
    )


def write_generator_card(
    folder: Path, facts: Facts, generator: HFGenerator, *, adapter: bool
) -> None:
    """The card of a generator."""
    base = origin_of(facts.config.generator.model)
    kind = "text2text-generation" if generator.is_encoder_decoder else "text-generation"
    card.write_card(
        folder,
        card.head(
            facts,
            base,
            library="peft" if adapter else "transformers",
            pipeline=kind,
            tags=("lora",) if adapter else (),
            generation=True,
        ),
        [
            f"# {facts.run}: generator",
            "Writes a response from a context and the passages a retriever found for it. "
            + (
                "This folder holds LoRA adapters; the base model stays as it was published."
                if adapter and converted_base(generator) is None
                else f"This folder holds LoRA adapters, `{BASE_FOLDER}/` the model they belong to, "
                "converted from its GGUF file."
                if adapter
                else "LoRA's adapters are merged into the weights."
                if generator.has_lora
                else "Whole weights in float32."
            ),
            _generator_loading(generator, adapter=adapter),
            _prompt(generator),
            card.scores(facts, (), generation=True),
            card.training(facts, base),
        ],
    )


def write_silver_card(folder: Path, facts: Facts, request: Request, count: Count) -> None:
    """The card of silver labels."""
    shapes: Mapping[str, str] = {
        "dpr": "`train.json`: a list in DPR's shape, `positive_ctxs` best first with the weight as "
        "`score`, `hard_negative_ctxs`",
        "tevatron": "`train.jsonl`: `query_id`, `query`, `positive_passages`, `negative_passages`",
        "triplets": "`train.jsonl`: `anchor`, `positive`, `negative`, a row a positive",
        "beir": "`corpus.jsonl`, `queries.jsonl` and `qrels/train.tsv`, weights as grades 1 to 100",
    }
    assert request.format is not None
    card.write_card(
        folder,
        {
            "task_categories": ["text-retrieval"],
            "tags": ["silver-labels", "retrieval-augmented-generation", "jsarag"],
        },
        [
            f"# {facts.run}: silver labels of `{facts.dataset}`",
            "For each training example, what the posterior retriever q(h|x,y) found: it read the "
            "response, so it says which passage the answer came from. Nobody labelled these by "
            "hand. The passages' and questions' licence is the data set's own.",
            "\n".join(
                [
                    f"- {shapes[request.format]}",
                    f"- `{LABELS}`: every passage with its weight, and which count as positive",
                    f"- weights: q(h|x,y) over the posterior's {request.k} best passages, at "
                    f"temperature {facts.config.retriever.temperature:g}; they sum to 1",
                    f"- positives: passages of weight {request.min_weight:g} or more, and always "
                    "the best one",
                    f"- negatives: up to {request.negatives} passages the prior retriever finds "
                    f"first that are not among those {request.k}",
                    f"- {count.labelled:,} of {count.examples:,} examples, "
                    f"{count.positives:,} positives",
                    *(f"- {text}" for text in count.notes()),
                ]
            ),
            card.scores(facts, ("posterior",)),
            card.training(facts, origin_of(facts.config.retriever.model)),
        ],
    )


def _loading(part: PartName) -> str:
    role = role_of(part)
    what = {"prior": "a question", "posterior": "text, put together as below"}
    return "\n".join(
        [
            "## Loading",
            "",
            "```python",
            "from sentence_transformers import SentenceTransformer",
            "",
            'model = SentenceTransformer("FOLDER")',
            f'vectors = model.encode(["{what.get(part, "Title: a passage")}"], '
            f'prompt_name="{role}")',
            "```",
        ]
    )


def _reading(encoder: TextEncoder, part: PartName) -> str:
    spec, role = encoder.spec, role_of(part)
    query = role == "query"
    end = "last" if query else "first"
    lines = [
        "## Reading",
        "",
        f"- {encoder.width} numbers a text, pooling `{spec.pooling}`, "
        f"{'' if spec.normalise else 'not '}normalised; compare by `{similarity(encoder)}`",
        f"- prompts: query `{spec.query_prefix!r}`, passage `{spec.passage_prefix!r}`",
        f"- the {end} {token_limit(encoder, role)} tokens are read, prompt and special tokens "
        "included. Longer texts are cut between word pieces here and at the pieces' text in "
        "training, so their vectors may differ a little; shorter ones' do not",
    ]
    if query:
        lines.append("- dialogue turns are joined as `speaker: text`, one a line, the last ones")
    else:
        lines.append("- a passage with a title is read as `title: text`")
    return "\n".join(lines)


def _posterior_input(facts: Facts, retrievers: RetrieverParts) -> str:
    encoder = retrievers.parts()["posterior"]
    return "\n".join(
        [
            "## The posterior's input",
            "",
            f"The context is the question, or {_turns(facts.config.data.posterior_turns)}; "
            f"the response is the first of the answers. Both are put together by the template "
            f"`{retrievers.posterior_template}`, the separator being `{encoder.separator}`:",
            "",
            "```python",
            f"template = {retrievers.posterior_template!r}",
            "text = template.format(",
            f"    context=context, response=response, separator={encoder.separator!r}",
            ").strip()",
            'vector = model.encode(text, prompt_name="query")',
            "```",
            "",
            f"Where that is more than {encoder.spec.max_query_tokens} tokens, shorten it before: "
            "the response keeps its beginning and at most half of the room, the context its end.",
        ]
    )


def _turns(count: int) -> str:
    if count == 0:
        return "for a dialogue nothing"
    return "a dialogue's last turn" if count == 1 else f"a dialogue's last {count} turns"


def _generator_loading(generator: HFGenerator, *, adapter: bool) -> str:
    kind = "Seq2SeqLM" if generator.is_encoder_decoder else "CausalLM"
    lines = [f"from transformers import AutoModelFor{kind}, AutoTokenizer"]
    if not adapter:
        lines += ["", f'model = AutoModelFor{kind}.from_pretrained("FOLDER")']
    elif converted_base(generator) is not None:
        lines += [
            "from peft import PeftModel",
            "",
            f'base = AutoModelFor{kind}.from_pretrained("FOLDER/{BASE_FOLDER}")',
            'model = PeftModel.from_pretrained(base, "FOLDER")',
        ]
    else:
        lines = [
            f"from peft import AutoPeftModelFor{kind}",
            "from transformers import AutoTokenizer",
        ]
        lines += ["", f'model = AutoPeftModelFor{kind}.from_pretrained("FOLDER")']
    lines.append('tokenizer = AutoTokenizer.from_pretrained("FOLDER")')
    return "\n".join(["## Loading", "", "```python", *lines, "```"])


def _prompt(generator: HFGenerator) -> str:
    settings = generator.prompts.settings
    lines = ["## Prompt", ""]
    if settings.template == CHAT:
        lines.append("The tokeniser's own chat template, the passages before the context:")
    else:
        lines.append("The template, as a Python string:")
    shown = generator.prompts.template.render("{context}", [("{title}", "{passage}")])
    lines += ["", "```", repr(shown), "```", ""]
    lead = generator.decoder_lead
    lines += [
        f"- context: its last {settings.max_context_tokens} tokens; passage: its first "
        f"{settings.max_passage_tokens}; title: a quarter of that",
        "- several passages: their part of the prompt is repeated, numbered `[1] `, `[2] `, one a "
        "line",
        f"- a response has at most {settings.max_response_tokens} tokens and ends with the token "
        f"{generator.eos_id}; decode greedily",
    ]
    if lead:
        lines.append(f"- the decoder reads {lead} first")
    elif settings.template == CHAT:
        lines.append("- the template puts the special tokens there; add none")
    return "\n".join(lines)
