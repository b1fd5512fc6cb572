"""Around a conversation: the model's template, the end of an answer, texts that look like special tokens."""

import pytest
from transformers import AutoTokenizer

from experiments.data import encode_prompts, encode_texts
from experiments.data._chat import remarks, render
from experiments.errors import UserError

HEAD = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}"
TAIL = "{% endif %}{% endfor %}{% if add_generation_prompt %}"
PLAIN = HEAD + "{{ eos_token }}\n" + TAIL + "<assistant>{% endif %}"
THINKING = HEAD + "{{ eos_token }}" + TAIL + "<assistant><think>\n{% endif %}"
FILLED = (  # writes empty thoughts before a finished answer, as the prompt opens with them
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}" + TAIL + "<assistant><think>\n{% endif %}"
)
TRIMMING = PLAIN.replace("m.content", "m.content | trim")
ENDLESS = HEAD + "\n" + TAIL + "<assistant>{% endif %}"
STRIPPING = PLAIN.replace("m.content", "m.content.split('</think>')[-1]")
CHAT = (("user", "hi"), ("assistant", "yes"))


@pytest.fixture
def tokenizer(tiny_llama):
    """By its template; it ends with </s> and begins with <s>."""

    def tokenizer(template):
        made = AutoTokenizer.from_pretrained(tiny_llama)
        made.chat_template = template
        return made

    return tokenizer


def texts(turns, tokenizer):
    """The prompt and the completion, with special tokens in brackets so that they differ from texts."""
    special = {number: f"[{token}]" for token, number in (("</s>", 1), ("<s>", 0))}
    return tuple(
        "".join(special.get(i) or tokenizer.decode([i]) for i in ids) for ids in render([turns], tokenizer)[0]
    )


@pytest.mark.parametrize(
    ("template", "prompt", "completion"),
    [
        (PLAIN, "<user>hi<assistant>", "yes[</s>]"),
        (THINKING, "<user>hi<assistant>", "yes[</s>]"),
        (FILLED, "<user>hi<assistant><think>\n", "\n</think>\n\nyes[</s>]"),
        (TRIMMING, "<user>hi<assistant>", "yes[</s>]"),
        (ENDLESS, "<user>hi<assistant>", "yes[</s>]"),
    ],
)
def test_prompt_and_completion_are_what_the_template_writes(tokenizer, template, prompt, completion):
    made = tokenizer(template)
    assert texts(CHAT, made) == (prompt, completion)
    assert encode_prompts([CHAT[:1]], made) == [render([CHAT], made)[0][0]]


@pytest.mark.parametrize("template", [PLAIN, THINKING, FILLED, ENDLESS, None])
@pytest.mark.parametrize(
    "answer", ["the end is </s> here", "</s>first", "a<s>b</s>c", "x </s> y </s> z", "<think>no", "Answer"]
)
def test_an_end_token_inside_an_answer_is_text_and_cuts_nothing(tokenizer, template, answer):
    made = tokenizer(template)
    prompt, completion = texts((("user", "say </s>"), ("assistant", answer)), made)
    assert completion.endswith(f"{answer}[</s>]") and completion.count("[") == 1
    assert "say </s>" in prompt and "[</s>]" not in prompt


def test_special_tokens_in_plain_prompts_are_text(tokenizer):
    made = tokenizer(PLAIN)
    assert texts((("prompt", "is </s> or <s> first?"), ("completion", "a </s> b")), made) == (
        "[<s>]is </s> or <s> first?\n",
        "a </s> b[</s>]",
    )


def test_an_end_that_a_completion_writes_itself_is_its_end(tokenizer):
    assert texts((("prompt", "q"), ("completion", "a</s>")), tokenizer(PLAIN))[1] == "a[</s>]"


def test_rows_without_special_tokens_are_tokenised_whole(tokenizer):
    made = tokenizer(PLAIN)
    (prompt, completion), _ = render([CHAT, (("user", "</s>"), ("assistant", "b"))], made)
    assert prompt == made("<user>hi<assistant>", add_special_tokens=False)["input_ids"]
    assert completion == made("yes</s>", add_special_tokens=False)["input_ids"]


def test_an_answer_of_which_the_template_drops_a_part_is_refused(tokenizer):
    with pytest.raises(
        UserError, match=r"leaves out part of an answer, such as '<think>hm</think>yes'.*chat=false"
    ):
        render([(CHAT[0], ("assistant", "<think>hm</think>yes"))], tokenizer(STRIPPING))


def test_a_template_that_writes_the_last_message_otherwise_keeps_its_prompt(tokenizer):
    odd = "{% for m in messages %}{% if loop.last %}!{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    made = tokenizer(odd + "{% if add_generation_prompt %}<assistant>{% endif %}")
    assert texts(CHAT, made) == ("!<user>hi<assistant>", "yes[</s>]")


def test_how_the_template_is_used_is_said(tokenizer):
    pair = (("prompt", "q"), ("completion", "a"))
    (note,) = remarks([pair], tokenizer(PLAIN))
    assert "plain text outside it (dataset.chat=true puts them into it)" in note
    assert remarks([pair], tokenizer(None)) == []
    assert remarks([CHAT], tokenizer(PLAIN)) == ["chats are written with the model's own chat template"]
    assert "has no chat template" in remarks([CHAT], tokenizer(None))[0]


def test_special_tokens_in_texts_to_classify_are_text(tiny_bert):
    made = AutoTokenizer.from_pretrained(tiny_bert)
    plain = encode_texts(["a [SEP] b"], made, 32).input_ids[0].tolist()
    expected = made.convert_tokens_to_ids(["[CLS]", "a", "[", "s", "##e", "##p", "]", "b", "[SEP]"])
    assert plain == expected


@pytest.mark.parametrize("kind", ["T5", "Bart"])
def test_models_that_read_the_end_token_get_one_whatever_the_texts_hold(kind, tiny_llama):
    import torch
    import transformers

    made = AutoTokenizer.from_pretrained(tiny_llama)
    from tokenizers import processors

    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", special_tokens=[("</s>", 1)]
    )
    sizes = {
        "T5": {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2},
        "Bart": {
            "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8,
        },
    }[kind]  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(made), eos_token_id=1, pad_token_id=0, decoder_start_token_id=0, num_labels=2, **sizes
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    encoded = encode_texts(["a </s> b", "c", "</s>"], made, 32)
    with torch.no_grad():
        logits = model(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).logits
    assert logits.shape == (3, 2) and (encoded.input_ids == 1).sum(1).tolist() == [1, 1, 1]
