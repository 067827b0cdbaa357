"""Any Hugging Face causal or encoder-decoder language model as the generator.

The prompt's text and truncation are ``hf_prompts``' rule, the layout of inputs that begin alike is
``hf_packing``'s, the final projection is ``hf_heads``'.
Dropout stays off, so that a score computed without gradient and the one back-propagated agree
(LoRA's own dropout, where asked for, runs in gradient-carrying training passes only).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jsarag.errors import CheckpointError
from jsarag.models import hub
from jsarag.models.generator import Generator
from jsarag.models.hf_heads import OutputHead, find_head, head_error
from jsarag.models.hf_packing import Line, lay_out, pack, packed_chunks
from jsarag.models.hf_prompts import PromptBuilder, PromptSettings
from jsarag.models.lora import LoraSettings, add_lora, load_adapter
from jsarag.models.padding import (
    budget_batches,
    length_batches,
    pad,
    padded_tokens,
    precision,
)
from jsarag.models.saved import read_settings, write_settings
from jsarag.types import GeneratorInput, ResponseLogp, TokenLogp

KIND = "huggingface"
_HEAD_TOLERANCE = 1e-4
_PACKING_TOLERANCE = 1e-3
# In longer rows, attention to what a token does not see would cost more than packing saves.
_LONGEST_ROW = 384
# Inputs whose token ids are kept: those of a step are asked for up to four times.
_ENCODINGS_KEPT = 4096
_MASKABLE = ("sdpa", "eager")
_WINDOWS = ("sliding_window", "sliding_window_size", "window_size", "attention_chunk_size")


class Sequences(NamedTuple):
    """Token ids of some inputs: what is read, and the response tokens that follow it.

    ``groups``: each input's context; inputs of one context may begin alike.
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    groups: list[str]

    def lines(self) -> list[Line]:
        """What a causal model reads of each input, and from where on its states are needed."""
        return [
            Line([*prompt, *response[:-1]], len(prompt) - 1, group)
            for prompt, response, group in zip(*self, strict=True)
        ]

    def select(self, places: Sequence[int]) -> Sequences:
        """Some of the inputs."""
        return Sequences(
            [self.prompts[place] for place in places],
            [self.responses[place] for place in places],
            [self.groups[place] for place in places],
        )


class Pass(NamedTuple):
    """One forward pass: the model's arguments, and row and column of each response's states.

    The states [sum of response lengths] predict the responses' tokens, input after input.
    """

    arguments: dict[str, Tensor]
    places: tuple[Tensor, Tensor]


class HFGenerator(Generator):
    """A transformers language model behind the generator interface.

    Args:
        model: a causal or encoder-decoder model, or peft's wrapping of one.
        tokenizer: its tokeniser.
        settings: prompt template and limits.
        name: what the user asked for.
        lora: whether ``model`` is wrapped by peft.
        micro_batch: inputs per forward pass of decoding.
        budget_tokens: tokens per forward pass of scoring, padding included.
        bf16: run under bfloat16 autocast; weights and sums stay float32.

    Attributes:
        fallbacks: how many forward passes had to store logits, by reason.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        settings: PromptSettings,
        *,
        name: str,
        lora: bool = False,
        micro_batch: int = 32,
        budget_tokens: int = 4096,
        bf16: bool = False,
    ) -> None:
        super().__init__(micro_batch=micro_batch, budget_tokens=budget_tokens)
        self.network = model.eval()
        self.tokenizer = tokenizer
        self.has_lora = lora
        self.fallbacks: Counter[str] = Counter()
        self._name = name
        self.prompts = PromptBuilder(
            tokenizer,
            settings,
            positions=hub.position_limit(self.inner.config, tokenizer),
            is_encoder_decoder=self.is_encoder_decoder,
            counter=self.truncation,
        )
        self._lead = self._decoder_lead() if self.is_encoder_decoder else []
        self._dropouts = [m for n, m in model.named_modules() if "lora_dropout." in n]
        self._encodings: OrderedDict[Any, tuple[list[int], list[int]]] = OrderedDict()
        self._head: OutputHead | str = find_head(self.inner)
        self._prove_head()
        self._longest_row = self._row_limit()
        self._packing_reason = self._prove_packing()
        # From here on: the proofs above compare full precision.
        self.bf16 = bf16
        self._clean_generation_config()

    @property
    def inner(self) -> Any:
        """The transformers model itself, adapters inside it included."""
        return self.network.get_base_model() if self.has_lora else self.network  # type: ignore[operator]

    @property
    def is_encoder_decoder(self) -> bool:
        """The model's family: True for encoder-decoder, False for causal."""
        return bool(self.inner.config.is_encoder_decoder)

    @property
    def name(self) -> str:
        """The folder's last part or the hub id."""
        return self._name

    @property
    def eos_id(self) -> int:
        """The token id that ends every response."""
        return self.prompts.eos_id

    @property
    def decoder_lead(self) -> list[int]:
        """Token ids a decoder reads before the response; empty for causal models."""
        return list(self._lead)

    @property
    def head_reason(self) -> str:
        """Why logits are stored for this model; empty where they are not."""
        return self._head if isinstance(self._head, str) else ""

    @property
    def packing_reason(self) -> str:
        """Why inputs of one context do not share their beginning's tokens; empty where they do."""
        return self._packing_reason

    @property
    def supports_bf16(self) -> bool:
        """Whether setting ``bf16`` changes anything: it does."""
        return True

    @property
    def has_dropout(self) -> bool:
        """Whether LoRA's dropout runs in passes with gradient."""
        return any(getattr(module, "p", 0.0) > 0 for module in self._dropouts)

    def checkpoint_activations(self) -> bool:
        """Keep a layer's input only, and compute the rest again in the backward pass."""
        if not getattr(self.inner, "supports_gradient_checkpointing", False):
            return False
        # Not through the training flag: the network stays in evaluation mode, which would switch
        # transformers' own checkpointing off again.
        if hasattr(self.inner, "activation_checkpointing_enable"):
            self.inner.activation_checkpointing_enable()
        else:  # its name, and another default, before transformers renamed it
            self.inner.gradient_checkpointing_enable({"use_reentrant": False})
        self._flag_checkpointing()
        return True

    def train(self, mode: bool = True) -> HFGenerator:
        """Set the training flag; the network itself stays in evaluation mode (no dropout)."""
        super().train(mode)
        self.network.eval()
        self._flag_checkpointing()
        return self

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response exactly as it is scored: the beginning, ``eos_id`` last."""
        return self.prompts.responses([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the first end of sequence, special tokens left out."""
        return self.prompts.codec.decode(ids)

    def chunks(self, inputs: Sequence[GeneratorInput], budget_tokens: int) -> list[list[int]]:
        """Positions of the inputs, one group a forward pass; see :meth:`Generator.chunks`."""
        return self._chunks(self._encode(inputs), budget_tokens)

    def tokens(self, inputs: Sequence[GeneratorInput]) -> int:
        """Tokens of one pass over the inputs, padding included; see :meth:`Generator.tokens`."""
        sequences = self._encode(inputs)
        if not self.is_encoder_decoder:
            lines = sequences.lines()
            packed, padded = self._divide(lines)
            own = lay_out([lines[place] for place in packed], self._longest_row).tokens
            sequences = sequences.select(padded)
        else:
            own = 0
        return own + padded_tokens(self._widths(sequences))

    def response_logp(self, inputs: Sequence[GeneratorInput]) -> ResponseLogp:
        """log p(y | x, h); see :meth:`Generator.response_logp`. Stores no logits."""
        sequences = self._encode(inputs)
        lengths = torch.tensor([len(row) for row in sequences.responses], dtype=torch.int64)
        sums, order = [], []
        for batch in self._chunks(sequences, self.budget_tokens):
            part = sequences.select(batch)
            ends = lengths[batch].cumsum(0)
            sums.append(self._score(part, torch.cat([ends.new_zeros(1), ends])))
            order.extend(batch)
        if not sums:
            return ResponseLogp(torch.zeros(0), lengths)
        position = torch.tensor(order, device=self.device).argsort()
        return ResponseLogp(torch.cat(sums)[position], lengths.to(self.device))

    def token_logp(self, inputs: Sequence[GeneratorInput]) -> TokenLogp:
        """Per-token log-probabilities; see :meth:`Generator.token_logp`."""
        sequences = self._encode(inputs)
        lengths = [len(row) for row in sequences.responses]
        values: list[Tensor] = []
        place = torch.zeros((len(inputs), max(lengths, default=0)), dtype=torch.int64)
        mask = torch.zeros_like(place, dtype=torch.bool)
        start = 0
        for batch in self._chunks(sequences, self.budget_tokens):
            part = sequences.select(batch)
            count = sum(lengths[index] for index in batch)
            values.append(self._score(part, torch.arange(count + 1)))
            for index in batch:
                place[index, : lengths[index]] = torch.arange(start, start + lengths[index])
                mask[index, : lengths[index]] = True
                start += lengths[index]
        place, mask = place.to(self.device), mask.to(self.device)
        if not values:
            return TokenLogp(torch.zeros(place.shape), mask)
        return TokenLogp(torch.cat(values)[place].masked_fill(~mask, 0.0), mask)

    @torch.no_grad()
    def next_token_logp(
        self, inputs: Sequence[GeneratorInput], prefixes: Sequence[Sequence[int]]
    ) -> Tensor:
        """log p(. | x, h, prefix), f32 [P, V]; see :meth:`Generator.next_token_logp`."""
        reserve = 1 + max((len(prefix) for prefix in prefixes), default=0)
        reserve = max(reserve, self.prompts.settings.max_response_tokens)
        # The last target is never looked at: it only makes the states reach one token further.
        targets = [[*prefix, self.eos_id] for prefix in prefixes]
        prompts = self.prompts.prompts(inputs, reserve=reserve)
        sequences = Sequences(prompts, targets, [item.context for item in inputs])
        lengths = [
            len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)
        ]
        result = torch.empty((len(inputs), self._vocabulary_size()), device=self.device)
        for batch in length_batches(lengths, self.micro_batch):
            part = sequences.select(batch)
            last = torch.tensor([len(row) for row in part.responses]).cumsum(0) - 1
            logits = self._logits(part, last)
            result[torch.tensor(batch, device=self.device)] = logits.float().log_softmax(dim=-1)
        return result

    @torch.no_grad()
    def generate(self, inputs: Sequence[GeneratorInput], *, max_new_tokens: int) -> list[str]:
        """Greedy responses in order, whatever decoding defaults the model ships with."""
        prompts = self.prompts.prompts(inputs, reserve=max_new_tokens)
        results = [""] * len(prompts)
        for batch in length_batches([len(row) for row in prompts], self.micro_batch):
            rows = self._greedy([prompts[index] for index in batch], max_new_tokens)
            for index, row in zip(batch, rows, strict=True):
                results[index] = self.decode(row)
        return results

    def save(self, folder: Path) -> None:
        """Write weights (LoRA: the adapters only), tokeniser and settings; :func:`load_saved`."""
        with hub.quiet_transformers():
            self.network.save_pretrained(folder)  # type: ignore[operator]
            self.tokenizer.save_pretrained(folder)
        write_settings(folder, KIND, asdict(self.prompts.settings))

    def checkpoint_state(self) -> dict[str, Tensor]:
        """The adapters where LoRA is used, else every weight, tied ones once."""
        return {
            name: parameter.detach()
            for name, parameter in self.network.named_parameters()
            if not self.has_lora or "lora_" in name
        }

    def load_checkpoint_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`checkpoint_state` returned.

        Raises:
            CheckpointError: the weights are another model's.
        """
        own = self.checkpoint_state()
        differing = sorted(
            name
            for name in own.keys() | state.keys()
            if name not in own or name not in state or own[name].shape != state[name].shape
        )
        if differing:
            raise CheckpointError(
                f"checkpoint: expected the weights of generator '{self.name}', found others "
                f"({len(differing)} differ, such as '{differing[0]}'); resume with the "
                "generator.model and generator.lora the run was started with"
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])

    def _flag_checkpointing(self) -> None:
        """Set the training flag of checkpointed layers, which transformers' checkpointing asks for.

        Dropouts that are modules of their own stay off; a layer's own rates are set to 0.
        """
        for module in self.inner.modules():
            if not getattr(module, "gradient_checkpointing", False):
                continue
            module.training = True
            for name, value in list(vars(module).items()):
                if "drop" in name and isinstance(value, float):
                    setattr(module, name, 0.0)

    def _encode(self, inputs: Sequence[GeneratorInput]) -> Sequences:
        """Token ids of the inputs as they are scored, kept for next time."""
        keys = [
            (item.context, tuple((p.title, p.text) for p in item.passages), item.response)
            for item in inputs
        ]
        unseen = dict(zip(keys, inputs, strict=True))
        new = [key for key in unseen if key not in self._encodings]
        items = [unseen[key] for key in new]
        responses = self.prompts.responses([item.response for item in items])
        reserve = self.prompts.settings.max_response_tokens
        prompts = self.prompts.prompts(items, reserve=reserve)
        self._encodings.update(zip(new, zip(prompts, responses, strict=True), strict=True))
        for key in unseen:
            self._encodings.move_to_end(key)
        found = [self._encodings[key] for key in keys]
        while len(self._encodings) > _ENCODINGS_KEPT:
            self._encodings.popitem(last=False)
        return Sequences(
            [prompt for prompt, _ in found],
            [response for _, response in found],
            [item.context for item in inputs],
        )

    def _chunks(self, sequences: Sequences, budget: int) -> list[list[int]]:
        if self.is_encoder_decoder:
            return budget_batches(self._widths(sequences), budget)
        lines = sequences.lines()
        packed, padded = self._divide(lines)
        limit = min(self._longest_row, budget)
        groups = packed_chunks([lines[place] for place in packed], limit, budget)
        alone = budget_batches(self._widths(sequences.select(padded)), budget)
        return [
            *([packed[place] for place in group] for group in groups),
            *([padded[place] for place in group] for group in alone),
        ]

    def _divide(self, lines: Sequence[Line]) -> tuple[list[int], list[int]]:
        """Places of the lines that are packed, and of those that are padded."""
        longest = 0 if self.packing_reason else self._longest_row
        packed = [place for place, line in enumerate(lines) if len(line.ids) <= longest]
        return packed, [place for place, line in enumerate(lines) if len(line.ids) > longest]

    def _widths(self, sequences: Sequences) -> list[tuple[int, int]]:
        """Tokens each input has in the one or two tensors that are padded."""
        lead = len(self._lead) - 1
        return [
            (len(prompt), lead + len(response))
            if self.is_encoder_decoder
            else (len(prompt) + len(response) - 1, 0)
            for prompt, response, _ in zip(*sequences, strict=True)
        ]

    def _scoring_pass(self, part: Sequences) -> Pass:
        """The pass over one of :meth:`_chunks`' groups."""
        if not self.is_encoder_decoder:
            lines = part.lines()
            _, padded = self._divide(lines)
            if not padded:
                return self._packed(lines, min(self._longest_row, self.budget_tokens))
        return self._padded(part)

    def _score(self, part: Sequences, boundaries: Tensor) -> Tensor:
        """Sums of response token log-probabilities between ``boundaries``, f32."""
        flat = [token for row in part.responses for token in row]
        targets = torch.tensor(flat, device=self.device)
        boundaries = boundaries.to(self.device)
        run = self._scoring_pass(part)
        if isinstance(self._head, OutputHead):
            return self._head.logp(self._states(run), targets, boundaries, bf16=self.bf16)
        logits = self._stored_logits(run)
        logp = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)
        tokens = logp.gather(1, targets.unsqueeze(1)).squeeze(1)
        owner = torch.repeat_interleave(boundaries.diff())
        return tokens.new_zeros(len(boundaries) - 1).index_add(0, owner, tokens)

    def _logits(self, part: Sequences, positions: Tensor) -> Tensor:
        """Logits [n, V] of some response positions, counted through the batch's responses."""
        positions = positions.to(self.device)
        run = self._padded(part)
        if isinstance(self._head, OutputHead):
            return self._head.logits(self._states(run)[positions])
        return self._stored_logits(run)[positions]

    def _states(self, run: Pass) -> Tensor:
        """The states [sum of response lengths, H] that predict each response token."""
        self._set_dropout()
        arguments, inner = run.arguments, self.inner
        with precision(self.device, self.bf16):
            if self.is_encoder_decoder:
                memory = inner.get_encoder()(
                    input_ids=arguments["input_ids"], attention_mask=arguments["attention_mask"]
                ).last_hidden_state
                hidden = inner.get_decoder()(
                    input_ids=arguments["decoder_input_ids"],
                    encoder_hidden_states=memory,
                    encoder_attention_mask=arguments["attention_mask"],
                    use_cache=False,
                ).last_hidden_state
            else:
                hidden = inner.base_model(**arguments, use_cache=False).last_hidden_state
        return hidden[run.places]  # type: ignore[no-any-return]

    def _stored_logits(self, run: Pass) -> Tensor:
        """The model's own logits [sum of response lengths, V], stored, and counted as such."""
        self.fallbacks[self.head_reason] += 1
        return self._own_logits(run)

    def _own_logits(self, run: Pass) -> Tensor:
        self._set_dropout()
        with precision(self.device, self.bf16):
            logits = self.inner(**run.arguments, use_cache=False).logits
        return logits[run.places]  # type: ignore[no-any-return]

    def _set_dropout(self) -> None:
        for module in self._dropouts:
            module.train(self.training and torch.is_grad_enabled())

    def _packed(self, lines: Sequence[Line], limit: int) -> Pass:
        """One pass over prompts and responses, common beginnings once; causal models only."""
        dtype = torch.bfloat16 if self.bf16 else self.inner.dtype
        packed = pack(lay_out(lines, limit), lines, self.prompts.pad_id, self.device, dtype)
        arguments = {
            "input_ids": packed.ids,
            "attention_mask": packed.mask,
            "position_ids": packed.positions,
        }
        return Pass(arguments, packed.places)

    def _padded(self, part: Sequences) -> Pass:
        """One pass with a row per input."""
        if self.is_encoder_decoder:
            ids, mask = pad(part.prompts, self.prompts.pad_id, self.device)
            read, _ = pad(
                [[*self._lead, *response[:-1]] for response in part.responses],
                self.prompts.pad_id,
                self.device,
            )
            arguments = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": read}
            starts = [len(self._lead) - 1] * len(part.prompts)
        else:
            lines = part.lines()
            ids, mask = pad([line.ids for line in lines], self.prompts.pad_id, self.device)
            arguments = {"input_ids": ids, "attention_mask": mask}
            starts = [line.start for line in lines]
        places = [
            (row, start + step)
            for row, (start, response) in enumerate(zip(starts, part.responses, strict=True))
            for step in range(len(response))
        ]
        where = torch.tensor(places, dtype=torch.int64, device=self.device).reshape(-1, 2)
        return Pass(arguments, (where[:, 0], where[:, 1]))

    def _greedy(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        side = "right" if self.is_encoder_decoder else "left"
        ids, mask = pad(prompts, self.prompts.pad_id, self.device, side=side)  # type: ignore[arg-type]
        arguments = {"input_ids": ids, "attention_mask": mask}
        skip = ids.shape[1]
        if self.is_encoder_decoder:
            lead = torch.tensor([self._lead], device=self.device)
            arguments["decoder_input_ids"] = lead.expand(len(prompts), -1)
            skip = len(self._lead)
        config = self._generation_config(max_new_tokens)
        with hub.quiet_transformers(), precision(self.device, self.bf16):
            produced = self.inner.generate(**arguments, generation_config=config)
        rows: list[list[int]] = produced[:, skip:].tolist()
        return rows

    def _generation_config(self, max_new_tokens: int | None = None) -> Any:
        from transformers import GenerationConfig

        return GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            pad_token_id=self.prompts.pad_id,
            eos_token_id=self.eos_id,
            decoder_start_token_id=self._lead[0] if self._lead else None,
        )

    def _clean_generation_config(self) -> None:
        # What a model ships with (sampling, forced tokens, repetition penalties) would be merged
        # into ours, and decoding would no longer follow the probabilities that are trained.
        self.inner.generation_config = self._generation_config()

    def _decoder_lead(self) -> list[int]:
        """What the decoder reads before the response: its start and the tokeniser's own lead."""
        config = self.inner.config
        start = getattr(config, "decoder_start_token_id", None)
        if start is None:
            start = config.bos_token_id if config.bos_token_id is not None else self.prompts.pad_id
        lead = self.prompts.response_lead
        return [start, *lead] if lead[:1] != [start] else lead

    def _vocabulary_size(self) -> int:
        return int(self.inner.get_output_embeddings().weight.shape[0])

    @torch.no_grad()
    def _prove_head(self) -> None:
        """Keep the head if it reproduces the model's logits on a few tokens, else say why not."""
        head = self._head
        if isinstance(head, str):
            return
        size = self._vocabulary_size()
        probe = Sequences([[self.eos_id, 1 % size]], [[2 % size, 3 % size, self.eos_id]], [""])
        run = self._padded(probe)
        error = head_error(head, self._states(run), self._own_logits(run))
        if not error <= _HEAD_TOLERANCE:
            self._head = f"its logits are not its output layer's (relative difference {error:.1e})"

    def _row_limit(self) -> int:
        """Tokens of the longest packed row: all positions exist, and no attention window ends."""
        config = self.inner.config.get_text_config()
        windows = [getattr(config, name, None) for name in _WINDOWS]
        limits = [window for window in windows if isinstance(window, int) and window > 0]
        return min(_LONGEST_ROW, self.prompts.positions, *limits)

    @torch.no_grad()
    def _prove_packing(self) -> str:
        """Empty if packed and padded rows give the same states on a few tokens, else why not."""
        if self.is_encoder_decoder:
            return "it is an encoder-decoder model"
        kind = getattr(self.inner.config, "_attn_implementation", None)
        if kind not in _MASKABLE:
            return f"its attention '{kind}' takes no mask of our own"
        probe = _packing_probe(self._vocabulary_size())
        try:
            padded = self._states(self._padded(probe))
            packed = self._states(self._packed(probe.lines(), _PROBE_ROW))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            detail = (str(error).strip() or type(error).__name__).splitlines()[0]
            return f"it does not take our mask and positions ({detail})"
        difference = (packed - padded).abs().max() / padded.abs().max().clamp_min(1e-6)
        if not float(difference) <= _PACKING_TOLERANCE:  # sync: once, at loading
            return f"its states change with our mask (relative difference {float(difference):.1e})"
        return ""


def load_hf_generator(
    model: str,
    *,
    settings: PromptSettings | None = None,
    lora: LoraSettings | None = None,
    attention: str = "auto",
    micro_batch: int = 32,
    budget_tokens: int = 4096,
    bf16: bool = False,
) -> HFGenerator:
    """Load a causal or encoder-decoder language model; its family is read from its configuration.

    Args:
        model: a folder (a model's or a saved adapter's) or a hub id.
        settings: prompt template and limits.
        lora: add fresh adapters and train only them.
        attention: transformers' attention implementation, or 'auto'.
        micro_batch: inputs per forward pass of decoding.
        budget_tokens: tokens per forward pass of scoring, padding included.
        bf16: run under bfloat16 autocast.

    Raises:
        BackendUnavailableError: the model is not on this machine and cannot be fetched, or LoRA is
            asked for without peft.
        ConfigError: the template or the limits do not fit the model.
    """
    adapter = None
    if Path(model).is_dir():
        adapter = hub.read_model_json(model, "adapter_config.json")
    base = model if adapter is None else str(adapter["base_model_name_or_path"])
    network = _load_network(base, attention)
    if adapter is not None:
        network = load_adapter(network, model)
    elif lora is not None:
        network = add_lora(network, lora, is_encoder_decoder=network.config.is_encoder_decoder)
    return HFGenerator(
        network,
        hub.load_tokenizer(model),
        settings or PromptSettings(),
        name=hub.display_name(model),
        lora=adapter is not None or lora is not None,
        micro_batch=micro_batch,
        budget_tokens=budget_tokens,
        bf16=bf16,
    )


def load_saved(folder: Path) -> HFGenerator:
    """Load what :meth:`HFGenerator.save` wrote, with its template and limits.

    Raises:
        CheckpointError: the folder holds no such generator.
    """
    stored = read_settings(folder, KIND)
    kept = {name: stored[name] for name in PromptSettings.__slots__}
    return load_hf_generator(str(folder), settings=PromptSettings(**kept))


# Rows of the probe: two branches on a prefix fill one, two sequences leave padding in the other.
_PROBE_ROW = 20


def _packing_probe(vocabulary: int) -> Sequences:
    def some(count: int, seed: int) -> list[int]:
        return [(seed * 31 + 7 * step) % vocabulary for step in range(count)]

    shared = some(10, 1)
    return Sequences(
        [[*shared, *some(3, 2)], [*shared, *some(2, 3)], some(7, 4), some(6, 5)],
        [some(3, 6), some(4, 7), some(3, 8), some(3, 9)],
        ["one", "one", "two", "three"],
    )


def _load_network(name: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    is_encoder_decoder = hub.load_config(name).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    return hub.load_model(name, auto_class, attention=attention)
