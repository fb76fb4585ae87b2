"""Catches a well-known model's template that is refused, taught other words than the assistant's, or never to stop.

The templates are data of TRL's wheel; `python -m tests.chat_templates` prints what these tests ask as a table.
"""

import numpy as np
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from pipeline.data.answers import ChatTemplate
from pipeline.data.chat import ChatEncoder, encode_conversation
from pipeline.run.errors import UserError
from tests import chat_templates
from tests.chat_templates import CONVERSATIONS, TURNS, assistant, attempt, tokenizer_of, user

NO_TOOLS = {
    *("cohere", "cohere2", "deepseek_r1_distill", "deepseekv3", "gemma", "gemma3", "idefics3", "llama3"),
    *("llava_next", "phi3", "phi3_5", "qwen2_5_vl", "smolvlm"),
}
NO_CALLS = {*NO_TOOLS, "lfm2"}
NO_THINKING = {
    *NO_TOOLS,
    *("gemma4", "gemma4_v2", "gemma4_v3", "gemma4_v4", "lfm2", "lfm2_v2", "llama3_1", "llama3_2", "qwen2_5"),
    *("qwen3_instruct_2507", "qwen3_vl"),
}
# Which templates have no place for what a conversation holds; every other cell of the table must be written.
PLACELESS = {"tools": NO_TOOLS, "call": NO_CALLS, "thinking": NO_THINKING, "thinking, turns": NO_THINKING}
NAMES = chat_templates.names()


def test_the_table_has_every_template():
    assert len(NAMES) == 41


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_every_template_teaches_the_assistants_words_and_its_stop_token(conversation):
    messages, _, words = CONVERSATIONS[conversation]
    asked = [message["content"] for message in messages if message["role"] != "assistant"]
    for name in NAMES:
        found = attempt(name, conversation)
        if name in PLACELESS.get(conversation, ()):
            assert isinstance(found, str) and "the chat template" in found, (name, found)
            continue
        assert not isinstance(found, str), (name, found)
        taught = [text for _, spans in found for text in spans]
        template = ChatTemplate(tokenizer_of(name))
        assert all(word in "".join(taught) for word in words), (name, taught)
        assert not any(text in span for text in asked for span in taught), (name, taught)
        answers = sum(message["role"] == "assistant" for message in messages)
        assert len(taught) == answers, (name, taught)
        for span in taught:
            *_, last = template.control.finditer(span)
            assert last.end() == len(span), (name, span)


@pytest.mark.parametrize("name", NAMES)
def test_rows_begin_as_generation_is_prompted_where_the_template_lets_them(name):
    tokenizer = tokenizer_of(name)
    encoder = ChatEncoder(tokenizer)
    for layout in encoder.lay_out(TURNS):
        encoded = encoder.encode([layout])
        first = int(encoded.targets.argmax())
        prompts = [encoder.prompt_ids(TURNS[:count]) for count in (1, 3)]
        matched = any(encoded.ids[:first].tolist() == prompt for prompt in prompts)
        # Else the prompt ends in words of a thinking model that answers without thoughts do not follow, and it is said.
        noted = any("generation is prompted with" in note for note in encoder.template.notes)
        assert matched != noted, (encoder.template.notes, tokenizer.decode(encoded.ids[:first]))


# What TRL's patches mark before an answer that generation is prompted with, and so never has to produce: to teach it
# costs a little of the loss and changes no answer. White space behind a stop token is marked by all of them.
PROMPTED = {
    **dict.fromkeys(["deepseek_r1_distill", "deepseekv3"], "<｜Assistant｜>"),
    **dict.fromkeys(["gptoss", "muse_glimmer"], "<|start|>assistant"),
    **dict.fromkeys(["nemotron_3_5_lightning", "nemotron_3_nano"], "<think>"),
    **dict.fromkeys(["nemotron_3_super", "nemotron_3_ultra"], "<think>"),
    **dict.fromkeys(["qwen3_5_think", "qwen3_6", "qwen3_8"], "<think>\n"),
    "qwen3_5_nothink": "<think>\n\n</think>\n\n",
    "qwen2_5": "\n",
}
# Phi's template writes an end of text behind the last turn alone; its generation config stops before, at <|end|>.
BEHIND = dict.fromkeys(["phi3", "phi3_5"], "<|end|>\n<|eos|>")


def marked_by_trl(name: str, messages) -> list[str]:
    """What TRL's training template marks of the one rendering that it makes."""
    tokenizer = tokenizer_of(name, training=True)
    texts, marks = render_jinja_template(
        [ChatTemplate(tokenizer).shaped(messages)],
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    begins = [
        first for first, _ in marks[0] if first not in {last for _, last in marks[0]}
    ]  # of joined marks
    ends = [last for _, last in marks[0] if last not in {first for first, _ in marks[0]}]
    return [texts[0][first:last] for first, last in zip(begins, ends, strict=True)]


def as_trl_marks(name: str, answers: list[str]) -> list[str]:
    """Our answers with what TRL marks beside them."""
    marked = [PROMPTED.get(name, "") + answer for answer in answers]
    if (
        name == "gptoss"
    ):  # ours teaches each answer as the last one it then was; TRL's in its place within the whole
        marked[:-1] = [answer.replace("<|return|>", "<|end|>") for answer in marked[:-1]]
    if name in BEHIND:
        marked[-1] = marked[-1].replace("<|end|>", BEHIND[name])
    return marked


def test_300_conversations_are_taught_what_trls_marks_teach():
    random = np.random.default_rng(0)
    words = "the sky is up and we go home when <b>it</b> \n rains 12 ünd so".split(" ")

    def said() -> str:
        return " ".join(random.choice(words, random.integers(1, 9))).strip() or "so"

    patched = [name for name in NAMES if (chat_templates.folder() / f"{name}_training.jinja").exists()]
    for number in range(300):
        name = patched[number % len(patched)]
        pairs = [(user(said()), assistant(said())) for _ in range(random.integers(1, 4))]
        turns = [turn for pair in pairs for turn in pair]
        rows = [layout.rendered for layout in ChatEncoder(tokenizer_of(name)).lay_out(turns)]
        ours = [row.text[first:last] for row in rows for first, last in row.spans]
        theirs = [mark.rstrip() for mark in marked_by_trl(name, turns)]
        assert as_trl_marks(name, ours) == theirs, (name, turns)
    assert len(patched) == 31


def test_a_template_that_marks_answers_itself_is_believed():
    """Ours and TRL's patch of the same template: its own marks, without the line break behind the stop token."""
    tokenizer = tokenizer_of("qwen3", training=True)
    rows = ChatTemplate(tokenizer).rows(TURNS)
    assert [row.text[first:last] for row in rows for first, last in row.spans] == [
        "<think>\n\n</think>\n\nThe sky.<|im_end|>",
        "<think>\n\n</think>\n\nThe ground.<|im_end|>",
    ]


def test_marks_without_the_stop_token_are_refused():
    import copy

    tokenizer = copy.deepcopy(tokenizer_of("qwen2_5"))
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    with pytest.raises(UserError, match="marks an answer without its stop token"):
        ChatTemplate(tokenizer).rows(TURNS)


@pytest.mark.parametrize(
    ("taught", "words"),
    [
        ("assistant", ["The sky.<|im_end|>", "The ground.<|im_end|>"]),
        ("last_assistant", ["The ground.<|im_end|>"]),
        ("completion", ["The ground.<|im_end|>"]),
    ],
)
def test_what_is_taught_is_chosen(taught, words):
    rows = ChatTemplate(tokenizer_of("qwen2_5")).rows(TURNS, taught=taught)
    assert [row.text[first:last] for row in rows for first, last in row.spans] == words


TOOLS = (
    {
        "type": "function",
        "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}},
    },
)
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}


def test_tools_become_text_only_where_the_template_has_no_place_for_them():
    """Llama 2's kind has none; Qwen's writes them itself. What is taught is the call, however it is written."""
    asked = [user("1 + 1?"), {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    later = [*asked, {"role": "tool", "content": "2"}, assistant("Two.")]
    for name in ("gemma", "qwen2_5"):
        template = ChatTemplate(tokenizer_of(name), "text")
        [row] = template.rows(asked, TOOLS)
        told = row.text[slice(*row.spans[0])]
        assert '"name": "add"' in told and '"a": 1' in told
        assert ("Adds." in row.text) and row.text.startswith(template.prompt(asked[:1], TOOLS))
        as_text = any("written as text" in note for note in template.notes)
        assert as_text == (name == "gemma") == ("<tools>[{" in row.text)
        answers = [row.text[first:last] for row in template.rows(later, TOOLS) for first, last in row.spans]
        assert len(answers) == 2 and answers[1].startswith("Two.")
    with pytest.raises(UserError, match="chat.unwritten=text to write them as text"):
        ChatTemplate(tokenizer_of("gemma")).rows(asked, TOOLS)


def test_marks_that_end_between_control_tokens_are_taught_to_the_token():
    """The template marks what an answer says before and after a remark of its own, which is not taught."""
    import copy

    tokenizer = copy.deepcopy(tokenizer_of("qwen2_5"))
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %} (noted) {% generation %}<|im_end|>{% endgeneration %}\n"
        "{% else %}{{ m.content }}<|im_end|>\n{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    ids, targets = encode_conversation(tokenizer, TURNS[:2])
    assert tokenizer.decode(ids[targets > 0]) == TURNS[1]["content"] + "<|im_end|>"
    assert tokenizer.decode(ids).count(" (noted) ") == 1


def test_all_says_that_it_heeds_no_weights():
    template = ChatTemplate(tokenizer_of("qwen2_5"))
    template.rows([*TURNS[:2], TURNS[2] | {"train": False}, *TURNS[3:]], taught="all")
    template.rows(TURNS, taught="all")
    assert [count for words, count in template.notes.items() if "left out of account" in words] == [1]


def test_all_teaches_every_token():
    [row] = ChatTemplate(tokenizer_of("qwen2_5")).rows(TURNS, taught="all")
    assert row.spans == ((0, len(row.text)),)


def test_a_completion_is_everything_after_the_last_user_turn():
    messages, tools, _ = CONVERSATIONS["call"]
    [row] = ChatTemplate(tokenizer_of("qwen2_5")).rows(messages, tools, "completion")
    assert len(row.spans) == 2


def test_a_message_says_that_it_is_not_taught():
    turns = [TURNS[0], {**TURNS[1], "train": False}, *TURNS[2:]]
    [row] = ChatTemplate(tokenizer_of("qwen2_5")).rows(turns)
    assert [row.text[first:last] for first, last in row.spans] == ["The ground.<|im_end|>"]
    with pytest.raises(UserError, match="there is nothing to learn"):
        ChatTemplate(tokenizer_of("qwen2_5")).rows(turns[:2])


def test_what_a_template_has_no_place_for_is_left_out_on_request_and_counted():
    template = ChatTemplate(tokenizer_of("llama3"), unwritten="drop")
    messages, _, _ = CONVERSATIONS["thinking"]
    [row] = template.rows(messages, chat_templates.TOOLS)
    assert "look up" not in row.text and "weather" not in row.text
    assert sorted(template.notes.values()) == [1, 1]
    with pytest.raises(UserError, match=r"no place for the thinking(.|\n)*chat.unwritten=drop"):
        ChatTemplate(tokenizer_of("llama3")).rows(messages)


@pytest.mark.parametrize("name", ["gptoss", "qwen3", "llama3_1", "glm4moe", "deepseekv3"])
def test_control_tokens_in_any_string_of_a_user_stay_text(name):
    tokenizer = tokenizer_of(name)
    controls = sorted(tokenizer.get_added_vocab())
    forged = "".join(controls)
    messages = [
        user(f"so {forged}"),
        assistant(
            "",
            tool_calls=[
                {**chat_templates.CALL, "function": {"name": "weather", "arguments": {"city": forged}}}
            ],
        ),
        {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": forged},
        assistant(f"so {forged}"),
    ]
    tools = () if name == "deepseekv3" else chat_templates.TOOLS
    plain = [dict(message) for message in messages]
    plain[0]["content"] = plain[2]["content"] = plain[3]["content"] = "so"
    plain[1] = chat_templates.CALLED[1]
    encoder = ChatEncoder(tokenizer)
    found = [
        [
            [i for i in encoder.encode([layout]).ids if i in tokenizer.added_tokens_decoder]
            for layout in encoder.lay_out(m, tools)
        ]
        for m in (messages, plain)
    ]
    assert found[0] == found[1] and found[0][0]
