"""Any Hugging Face causal or encoder-decoder language model as the generator.

The prompt's text and truncation are ``hf_prompts``' rule, the final projection is ``hf_heads``'.
Dropout stays off, so that a score computed without gradient and the one back-propagated agree
(LoRA's own dropout, where asked for, runs in gradient-carrying training passes only).
"""

from __future__ import annotations

from collections import Counter
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
from jsarag.models.hf_prompts import PromptBuilder, PromptSettings
from jsarag.models.lora import LoraSettings, add_lora, load_adapter
from jsarag.models.padding import length_batches, pad, precision
from jsarag.models.saved import read_settings, write_settings
from jsarag.types import GeneratorInput, ResponseLogp, TokenLogp

KIND = "huggingface"
_HEAD_TOLERANCE = 1e-4


class Sequences(NamedTuple):
    """Token ids of some inputs: what is read, and the response tokens that follow it."""

    prompts: list[list[int]]
    responses: list[list[int]]


class HFGenerator(Generator):
    """A transformers language model behind the generator interface.

    Args:
        model: a causal or encoder-decoder model, or peft's wrapping of one.
        tokenizer: its tokeniser.
        settings: prompt template and limits.
        name: what the user asked for.
        lora: whether ``model`` is wrapped by peft.
        micro_batch: inputs per forward pass.
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
        bf16: bool = False,
    ) -> None:
        super().__init__(micro_batch=micro_batch)
        self.network = model.eval()
        self.tokenizer = tokenizer
        self.has_lora = lora
        self.bf16 = bf16
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
        self._head: OutputHead | str = find_head(self.inner)
        self._prove_head()
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
    def head_reason(self) -> str:
        """Why logits are stored for this model; empty where they are not."""
        return self._head if isinstance(self._head, str) else ""

    def train(self, mode: bool = True) -> HFGenerator:
        """Set the training flag; the network itself stays in evaluation mode (no dropout)."""
        super().train(mode)
        self.network.eval()
        return self

    def encode_response(self, text: str) -> list[int]:
        """Token ids of a response exactly as it is scored: the beginning, ``eos_id`` last."""
        return self.prompts.responses([text])[0]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids up to the first end of sequence, special tokens left out."""
        return self.prompts.codec.decode(ids)

    def response_logp(self, inputs: Sequence[GeneratorInput]) -> ResponseLogp:
        """log p(y | x, h); see :meth:`Generator.response_logp`. Stores no logits."""
        sequences = self._encode(inputs)
        lengths = torch.tensor([len(row) for row in sequences.responses], dtype=torch.int64)
        sums, order = [], []
        for batch in self._batches(sequences):
            part = _select(sequences, batch)
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
        for batch in self._batches(sequences):
            part = _select(sequences, batch)
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
        sequences = Sequences(self.prompts.prompts(inputs, reserve=reserve), targets)
        result = torch.empty((len(inputs), self._vocabulary_size()), device=self.device)
        for batch in self._batches(sequences):
            part = _select(sequences, batch)
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

    def _encode(self, inputs: Sequence[GeneratorInput]) -> Sequences:
        responses = self.prompts.responses([item.response for item in inputs])
        reserve = self.prompts.settings.max_response_tokens
        return Sequences(self.prompts.prompts(inputs, reserve=reserve), responses)

    def _batches(self, sequences: Sequences) -> list[list[int]]:
        lengths = [
            len(prompt) + len(response)
            for prompt, response in zip(sequences.prompts, sequences.responses, strict=True)
        ]
        return length_batches(lengths, self.micro_batch)

    def _score(self, part: Sequences, boundaries: Tensor) -> Tensor:
        """Sums of response token log-probabilities between ``boundaries``, f32."""
        flat = [token for row in part.responses for token in row]
        targets = torch.tensor(flat, device=self.device)
        boundaries = boundaries.to(self.device)
        if isinstance(self._head, OutputHead):
            hidden = self._response_states(part)
            return self._head.logp(hidden, targets, boundaries, bf16=self.bf16)
        logp = self._response_logits(part).float().log_softmax(dim=-1)
        tokens = logp.gather(1, targets.unsqueeze(1)).squeeze(1)
        owner = torch.repeat_interleave(boundaries.diff())
        return tokens.new_zeros(len(boundaries) - 1).index_add(0, owner, tokens)

    def _logits(self, part: Sequences, positions: Tensor) -> Tensor:
        """Logits [n, V] of some response positions, counted through the batch's responses."""
        positions = positions.to(self.device)
        if isinstance(self._head, OutputHead):
            return self._head.logits(self._response_states(part)[positions])
        return self._response_logits(part)[positions]

    def _response_states(self, part: Sequences) -> Tensor:
        """The states [sum of response lengths, H] that predict each response token."""
        arguments, places = self._arguments(part)
        inner = self.inner
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
        return hidden[places]  # type: ignore[no-any-return]

    def _response_logits(self, part: Sequences) -> Tensor:
        """The model's own logits [sum of response lengths, V], stored, and counted as such."""
        self.fallbacks[self.head_reason] += 1
        arguments, places = self._arguments(part)
        with precision(self.device, self.bf16):
            logits = self.inner(**arguments, use_cache=False).logits
        return logits[places]  # type: ignore[no-any-return]

    def _arguments(self, part: Sequences) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Keyword arguments of the model, and (row, column) of each state that predicts a token."""
        for module in self._dropouts:
            module.train(self.training and torch.is_grad_enabled())
        pairs = list(zip(part.prompts, part.responses, strict=True))
        if self.is_encoder_decoder:
            ids, mask = pad(part.prompts, self.prompts.pad_id, self.device)
            read, _ = pad(
                [[*self._lead, *response[:-1]] for response in part.responses],
                self.prompts.pad_id,
                self.device,
            )
            arguments = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": read}
            starts = [len(self._lead) - 1 for _ in pairs]
        else:
            rows = [[*prompt, *response[:-1]] for prompt, response in pairs]
            ids, mask = pad(rows, self.prompts.pad_id, self.device)
            arguments = {"input_ids": ids, "attention_mask": mask}
            starts = [len(prompt) - 1 for prompt, _ in pairs]
        places = [
            (row, start + step)
            for row, (start, response) in enumerate(zip(starts, part.responses, strict=True))
            for step in range(len(response))
        ]
        where = torch.tensor(places, dtype=torch.int64, device=self.device).reshape(-1, 2)
        return arguments, (where[:, 0], where[:, 1])

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
        probe = Sequences([[self.eos_id, 1 % size]], [[2 % size, 3 % size, self.eos_id]])
        arguments, places = self._arguments(probe)
        logits = self.inner(**arguments, use_cache=False).logits[places]
        error = head_error(head, self._response_states(probe), logits)
        if not error <= _HEAD_TOLERANCE:
            self._head = f"its logits are not its output layer's (relative difference {error:.1e})"


def load_hf_generator(
    model: str,
    *,
    settings: PromptSettings | None = None,
    lora: LoraSettings | None = None,
    attention: str = "auto",
    micro_batch: int = 32,
    bf16: bool = False,
) -> HFGenerator:
    """Load a causal or encoder-decoder language model; its family is read from its configuration.

    Args:
        model: a folder (a model's or a saved adapter's) or a hub id.
        settings: prompt template and limits.
        lora: add fresh adapters and train only them.
        attention: transformers' attention implementation, or 'auto'.
        micro_batch: inputs per forward pass.
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


def _select(sequences: Sequences, batch: Sequence[int]) -> Sequences:
    return Sequences(
        [sequences.prompts[index] for index in batch],
        [sequences.responses[index] for index in batch],
    )


def _load_network(name: str, attention: str) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    is_encoder_decoder = hub.load_config(name).is_encoder_decoder
    auto_class = AutoModelForSeq2SeqLM if is_encoder_decoder else AutoModelForCausalLM
    return hub.load_model(name, auto_class, attention=attention)
