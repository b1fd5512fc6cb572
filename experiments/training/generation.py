"""Answers that every run of a pack writes, to the same prompts at once.

Prompts are sorted by length. A batch holds `size` prompts of each run; a row that has written its end leaves,
and the places of all runs are filled with new prompts once a quarter of them is free. Keys and values stay in
one cache whose rows are padded on the left. What is written depends on the prompt and the run alone, as far
as sums of floats do not depend on their order.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from experiments.training.loop import autocast

ROOM = 32  # tokens that a cache grows by
READ = (512, 32_768)  # tokens of prompts that a processor, and a GPU, read at a time


@dataclass(frozen=True)
class Settings:
    """How answers are written: the task's own, whatever the model's generation config says."""

    max_new_tokens: int = 64
    beams: int = 1  # 1: greedy
    length_penalty: float = 1.0  # of beams
    no_repeat_ngram: int = 0  # of beams; 0: none
    stop: tuple[str, ...] = ()  # the answer ends before the first of these texts

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Settings":
        """Those of a task."""
        own = {f.name: settings[f.name] for f in fields(cls) if settings.get(f.name) is not None}
        return cls(**own | {"stop": tuple([stop] if isinstance(stop := own.get("stop", ()), str) else stop)})


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    tokenizer: Any,
    settings: Settings,
    *,
    runs: int,
    precision: str,
    size: int,
    by_transformers: bool = False,
) -> list[list[str]]:
    """The answers of each run, in the order of the prompts.

    Args:
        model: The attached model of `runs` runs, in evaluation mode.
        prompts: Token ids.
        tokenizer: Of the model.
        settings: How to write.
        runs: K, the length of the run axis.
        precision: Of the forward pass.
        size: Prompts of each run in a batch.
        by_transformers: Whether to leave it to transformers; beams and some models are left to it anyway.
    """
    virtual = getattr(model, "virtual_tokens", ())  # of prompt tuning: the model's own, before every text
    prompts = [[*virtual, *prompt] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    ordered = [prompts[i] for i in order]
    device = next(model.parameters()).device
    with autocast(precision, device):
        theirs = by_transformers or settings.beams > 1 or model.config.is_encoder_decoder
        if theirs or not reads_cache(model):
            written = _by_transformers(model, ordered, tokenizer, settings, runs=runs, size=size)
        else:
            written = _Greedy(model, ordered, tokenizer, settings, runs=runs, size=size).all()
    answers = []
    for run in written:
        texts = tokenizer.batch_decode(run, skip_special_tokens=True)
        for stop in settings.stop:
            texts = [text.split(stop)[0] for text in texts]
        found = dict(zip(order, texts, strict=True))
        answers.append([found[i] for i in range(len(prompts))])
    return answers


def reads_cache(model: Any) -> bool:
    """Whether a model takes positions as an input and reads an ordinary cache of keys and values."""
    parameters = inspect.signature(model.forward).parameters
    return {"position_ids", "past_key_values", "logits_to_keep"} <= set(parameters) and not any(
        getattr(model.config, name, None) for name in ("layers_block_type", "ssm_cfg", "mamba_d_state")
    )


def left_padded(prompts: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and mask, (n, T): every prompt ends where its answer begins."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, length - len(prompt) :] = torch.tensor(prompt)
        mask[row, length - len(prompt) :] = 1
    return ids, mask


def _by_transformers(
    model: Any, prompts: Sequence[Any], tokenizer: Any, settings: Settings, *, runs: int, size: int
) -> list[list[list[int]]]:
    """Batch after batch by transformers' own search, for beams and encoder-decoders."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.beams,
        do_sample=False,
        length_penalty=settings.length_penalty,
        no_repeat_ngram_size=settings.no_repeat_ngram,
        early_stopping=settings.beams > 1,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        use_cache=True,
    )
    device = next(model.parameters()).device
    found: list[list[list[int]]] = [[] for _ in range(runs)]
    own, model.generation_config = model.generation_config, config  # what is not set here is taken from there
    try:
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            ids, mask = left_padded(part, tokenizer.pad_token_id or 0)
            out = model.generate(
                input_ids=ids.repeat(runs, 1).to(device), attention_mask=mask.repeat(runs, 1).to(device)
            )
            new = out[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()
            for k in range(runs):
                found[k] += [
                    _ended(row, tokenizer.eos_token_id) for row in new[k * len(part) : (k + 1) * len(part)]
                ]
    finally:
        model.generation_config = own
    return found


def _ended(row: list[int], end: int | None) -> list[int]:
    return row[: row.index(end)] if end in row else row


class _Layer(DynamicLayer):
    """The keys and values of a layer, with room for more tokens, so that a step copies none of the others."""

    def __init__(self, *whole: Tensor) -> None:
        super().__init__()
        self.lazy_initialization(*whole)
        self.keys, self.values = self.whole = whole

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Take in new tokens."""
        before, length = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if length > self.whole[0].shape[2]:
            self.whole = tuple(F.pad(part, (0, 0, 0, ROOM)) for part in (self.keys, self.values))
        for part, new in zip(self.whole, (key_states, value_states), strict=True):
            part[:, :, before:length] = new
        self.keys, self.values = (part[:, :, :length] for part in self.whole)
        return self.keys, self.values


class _Greedy:
    """The most likely token at each step, for K x n places with a prompt each."""

    def __init__(
        self, model: Any, prompts: Sequence[Any], tokenizer: Any, settings: Settings, *, runs: int, size: int
    ) -> None:
        self.model, self.prompts, self.runs, self.size = model, prompts, runs, size
        self.end, self.pad = tokenizer.eos_token_id, tokenizer.pad_token_id or 0
        self.tokenizer, self.stop = tokenizer, settings.stop
        self.reach = max(map(len, settings.stop), default=0) + 4  # tokens at the end that a stop can lie in
        limit = getattr(model.config, "max_position_embeddings", None)
        self.most = [
            max(0, min(settings.max_new_tokens, limit - len(p) if limit else settings.max_new_tokens))
            for p in prompts
        ]
        self.device = next(model.parameters()).device
        self.written: list[list[list[int]]] = [[[] for _ in prompts] for _ in range(runs)]
        self.queues = [
            [i for i in range(len(prompts)) if self.most[i]] for _ in range(runs)
        ]  # taken from the end
        self.places: list[list[int | None]] = [
            [] for _ in range(runs)
        ]  # the prompt in each place, None: free
        self.cache = Cache(layers=[])  # keys and values by layer, (K*n, heads, T, d)
        self.mask = torch.zeros(0, 0, dtype=torch.long, device=self.device)  # (K*n, T)
        self.next = torch.zeros(0, dtype=torch.long, device=self.device)  # (K*n,)

    def all(self) -> list[list[list[int]]]:
        """What each run writes to each prompt."""
        while self._busy() or any(self.queues):
            free = min(self.size - sum(p is not None for p in run) for run in self.places)
            if any(self.queues) and (4 * free >= self.size or not self._busy()):
                self._fill()
            elif self._most_busy() <= 3 * len(self.places[0]) // 4:
                self._keep(self._order([[]] * self.runs), [], None, None)
            self._step()
        return self.written

    def _busy(self) -> bool:
        return any(p is not None for run in self.places for p in run)

    def _most_busy(self) -> int:
        return max(sum(p is not None for p in run) for run in self.places)

    def _fill(self) -> None:
        """Read new prompts, the same number of places for each run, and lay them beside those under way."""
        new: list[list[int]] = []
        for run, queue in zip(self.places, self.queues, strict=True):
            count = min(self.size - sum(p is not None for p in run), len(queue))
            new.append([queue.pop() for _ in range(count)])
        most = max(map(len, new))
        some = next(part[0] for part in new if part)  # fills up
        places = list(zip(*([*part, *[some] * (most - len(part))] for part in new), strict=True))
        read = [
            self._read([self.prompts[i] for row in zip(*part, strict=True) for i in row])
            for part in self._by_length(places)
        ]
        length = max(mask.shape[1] for _, mask, _ in read)
        keys = [
            tuple(self._joined([_wide(keys[i][j], length, 2) for keys, _, _ in read]) for j in (0, 1))
            for i in range(len(read[0][0]))
        ]
        mask = self._joined([_wide(mask, length, 1) for _, mask, _ in read])
        token = self._joined([token for *_, token in read])
        self._keep(self._order(new), keys, mask, token, new=new, most=most)
        self._note(first=True)

    def _by_length(self, places: Sequence[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
        """Places in parts of about the same length, so that little padding is read; the longest come first.

        A part is no smaller than what the device reads at full speed.
        """
        room = READ[self.device.type == "cuda"]
        parts: list[list[tuple[int, ...]]] = []
        longest = 0
        for place in places:
            length = max(len(self.prompts[i]) for i in place)
            if not parts or self.runs * longest * (len(parts[-1]) + 1) > room:
                parts.append([])
                longest = length
            parts[-1].append(place)
        return parts

    def _read(self, prompts: Sequence[Sequence[int]]) -> tuple[Any, Tensor, Tensor]:
        """Keys and values by layer, mask and next token of each prompt."""
        ids, mask = (t.to(self.device) for t in left_padded(prompts, self.pad))
        cache = DynamicCache()
        token = self._forward(ids, mask, (mask.cumsum(1) - 1).clamp_min(0), cache)
        return [(layer.keys, layer.values) for layer in cache.layers], mask, token

    def _joined(self, parts: Sequence[Tensor]) -> Tensor:
        """Rows of several parts, each run's together."""
        return torch.cat([part.unflatten(0, (self.runs, -1)) for part in parts], 1).flatten(0, 1)

    def _step(self) -> None:
        """One token for every place; free places are carried along."""
        if not self._busy():
            return
        self.mask = torch.cat([self.mask, torch.ones_like(self.mask[:, :1])], 1)
        positions = self.mask.sum(1, keepdim=True) - 1
        self.next = self._forward(self.next[:, None], self.mask, positions, self.cache)
        self._note()

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """The next token of each row; the cache takes in what was read."""
        out = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return torch.as_tensor(out.logits[:, -1].argmax(-1))

    def _note(self, *, first: bool = False) -> None:
        """Write down the last tokens (or only those that are an answer's first), and free what is done."""
        tokens = self.next.view(self.runs, -1).tolist()
        for k, run in enumerate(self.places):
            for place, prompt in enumerate(run):
                if prompt is None:
                    continue
                token, text = tokens[k][place], self.written[k][prompt]
                if first and text:  # under way: its last token stands there already
                    continue
                if token != self.end:
                    text.append(token)
                if token == self.end or len(text) >= self.most[prompt] or self._stops(text):
                    run[place] = None

    def _stops(self, tokens: list[int]) -> bool:
        """Whether what is written has come to a text that ends it."""
        if not self.stop:
            return False
        end = self.tokenizer.decode(tokens[-self.reach :], skip_special_tokens=True)
        return any(stop in end for stop in self.stop)

    def _order(self, new: Sequence[Sequence[int]]) -> list[list[tuple[bool, int]]]:
        """Of each run the places to keep: (is it a new one, its number), filled up to one length."""
        kept = [
            [(False, place) for place, prompt in enumerate(run) if prompt is not None]
            + [(True, place) for place in range(len(more))]
            for run, more in zip(self.places, new, strict=True)
        ]
        most = max(map(len, kept))
        some = next(part[0] for part in kept if part)
        return [part + [part[0] if part else some] * (most - len(part)) for part in kept]

    def _keep(
        self,
        order: list[list[tuple[bool, int]]],
        keys: Any,
        mask: Tensor | None,
        token: Tensor | None,
        *,
        new: Sequence[Sequence[int]] = (),
        most: int = 0,
    ) -> None:
        """Lay old and new places out anew, and drop columns that no row uses."""
        old, n = len(self.mask), len(self.places[0])
        rows, places = [], []
        for k, part in enumerate(order):
            seen = set()
            line: list[int | None] = []
            for place in part:
                is_new, number = place
                rows.append(old + k * most + number if is_new else k * n + number)
                source = new[k] if is_new else self.places[k]
                line.append(source[number] if place not in seen and number < len(source) else None)
                seen.add(place)
            places.append(line)
        self.places = places
        index = torch.tensor(rows, device=self.device)
        length = max(self.mask.shape[1], mask.shape[1] if mask is not None else 0)
        masks = [_wide(m, length, 1) for m in (self.mask, mask) if m is not None and len(m)]
        self.mask = torch.cat(masks)[index]
        first = int(self.mask.any(0).int().argmax())
        self.mask = self.mask[:, first:]
        layers = [part for part in ([(one.keys, one.values) for one in self.cache.layers], keys) if part]
        self.cache = Cache(
            layers=[
                _Layer(
                    *(
                        torch.cat([_wide(layer[i][j], length, 2) for layer in layers])[index, :, first:]
                        for j in (0, 1)
                    )
                )
                for i in range(len(layers[0]))
            ]
        )
        self.next = torch.cat([t for t in (self.next, token) if t is not None])[index]


def _wide(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Zeros in front along a dimension."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim)
