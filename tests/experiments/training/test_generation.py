"""Answers of a pack are those that transformers writes to each prompt alone."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.training.generation import Settings, generate
from variants import RunConfig, attach

LENGTHS = [5, 3, 9, 17, 2, 30, 11, 4, 6, 8, 12, 1, 21]
LONGEST = 23


def louder(folder):
    """A model whose choices are far apart, and its tokenizer."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter *= 10
    return model.eval(), tokenizer


def prompts(tokenizer):
    draw = torch.Generator().manual_seed(1)
    return [torch.randint(3, len(tokenizer), (n,), generator=draw).tolist() for n in LENGTHS]


def alone(model, prompt, end, **settings):
    """What transformers writes to one prompt, as token ids before the end token."""
    ids = torch.tensor([prompt])
    out = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False,
        eos_token_id=end, pad_token_id=0, **settings,
    )[0, len(prompt) :].tolist()  # fmt: skip
    return out[: out.index(end)] if end in out else out


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
def test_a_packs_answers_are_those_of_one_prompt_at_a_time(request, name):
    model, tokenizer = louder(request.getfixturevalue(name))
    asked = prompts(tokenizer)
    free = [alone(model, prompt, end=0) for prompt in asked]
    tokens = [token for text in free for token in set(text)]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(max(set(tokens), key=tokens.count))
    expected = [alone(model, prompt, tokenizer.eos_token_id) for prompt in asked]
    lengths = {len(text) for text in expected}
    assert len(lengths) > 3, "rows have to leave at different times"
    texts = tokenizer.batch_decode(expected, skip_special_tokens=True)
    for size, runs in [(1, 1), (3, 2), (4, 3), (13, 1), (64, 2)]:
        found = generate(model, asked, tokenizer, Settings(LONGEST), runs=runs, precision="fp32", size=size)
        assert found == [texts] * runs, (size, runs)


@pytest.mark.parametrize("name", ["tiny_gpt2", "tiny_llama"])
@pytest.mark.parametrize("method", ["prefix", "prompt"])
def test_what_stands_before_the_text_stands_before_each_prompt_once(request, name, method):
    """A pack of two runs, whose rows leave at different times, against whole passes over one text."""
    model, tokenizer = louder(request.getfixturevalue(name))
    options = {"length": 3, "inner": 5}
    runs = [RunConfig(s, method=method, targets=None, r=None, options=options) for s in (1, 2)]
    attached, asked = attach(model, runs), prompts(tokenizer)[:6]
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(7)

    def written(prompt):
        """Of both runs: every token by a pass without a cache."""
        texts = torch.tensor([prompt, prompt])
        for _ in range(5):
            next_ = attached.model(input_ids=texts, use_cache=False).logits[:, -1:].argmax(-1)
            texts = torch.cat([texts, next_], 1)
        answers = texts[:, len(prompt) :].tolist()
        return [a[: a.index(7)] if 7 in a else a for a in answers]

    with torch.no_grad():
        expected = list(zip(*map(written, asked), strict=True))
    assert expected[0] != expected[1]
    for settings in (Settings(5), Settings(5, beams=2)):
        found = generate(attached.model, asked, tokenizer, settings, runs=2, precision="fp32", size=4)
        if settings.beams == 1:
            assert found == [tokenizer.batch_decode(run, skip_special_tokens=True) for run in expected]


def test_beams_are_the_tasks_whatever_the_model_would_do_itself(tiny_llama):
    model, tokenizer = louder(tiny_llama)
    asked = prompts(tokenizer)[:5]
    tokenizer.pad_token = tokenizer.eos_token
    expected = [
        alone(model, p, tokenizer.eos_token_id, num_beams=3, length_penalty=0.9, early_stopping=True)
        for p in asked
    ]
    model.generation_config.update(do_sample=True, temperature=5.0, max_new_tokens=2, num_beams=1)
    settings = Settings(LONGEST, beams=3, length_penalty=0.9)
    found = generate(model, asked, tokenizer, settings, runs=2, precision="fp32", size=5)
    assert found == [tokenizer.batch_decode(expected, skip_special_tokens=True)] * 2
    assert model.generation_config.temperature == 5.0


def test_an_answer_ends_where_the_task_says(tiny_gpt2):
    model, tokenizer = louder(tiny_gpt2)
    [[whole]] = generate(
        model, prompts(tokenizer)[:1], tokenizer, Settings(LONGEST), runs=1, precision="fp32", size=1
    )
    stop = whole[4:6]
    settings = Settings.of({"max_new_tokens": LONGEST, "stop": stop, "metrics": ("bleu",)})
    [[cut]] = generate(model, prompts(tokenizer)[:1], tokenizer, settings, runs=1, precision="fp32", size=1)
    assert cut == whole[: whole.index(stop)] != whole
