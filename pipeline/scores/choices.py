"""Multiple-choice questions made of held-out conversations: which answer belongs to this prompt?"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.data.chat import ChatEncoder, Layout, Messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

CHOICES = 4
NEIGHBOURS = 24  # wrong answers are drawn among so many of the held-out answers closest in length


class Question(NamedTuple):
    """A conversation up to an answer, as the chat template renders it, and answers with their stop token."""

    prompt: str
    choices: tuple[str, ...]
    label: int


class Questions(NamedTuple):
    """unfaithful: conversations left out because a harness that encodes rendered text would get other tokens."""

    asked: list[Question]
    unfaithful: int


def build_questions(
    encoder: ChatEncoder, conversations: list[Messages], count: int, most_tokens: int, seed: int
) -> Questions:
    """At most `count` questions, one a conversation, in an order drawn by `seed`.

    The prompt is everything before the assistant's first answer. The wrong answers are other conversations' first
    answers of about the right one's length: neither the sum of log-likelihoods nor its mean then favours a length.

    Args:
        most_tokens: conversations that are longer with one of the choices are left out.

    Returns:
        No questions where fewer than CHOICES different answers are held out.
    """
    random = np.random.default_rng(seed)
    prompts = [split(messages) for messages in conversations]
    answers = sorted({answer for _, answer in prompts}, key=lambda answer: (len(answer), answer))
    questions = Questions([], 0)
    if len(answers) < CHOICES:
        return questions
    for index in random.permutation(len(prompts)):
        if len(questions.asked) == count:
            break
        prompt, right = prompts[index]
        near = neighbours(answers, right)
        wrong = [near[place] for place in random.choice(len(near), CHOICES - 1, replace=False)]
        texts = [[right, *wrong][place] for place in random.permutation(CHOICES)]
        layouts = [encoder.lay_out([*prompt, {"role": "assistant", "content": text}])[-1] for text in texts]
        questions = _with_question(questions, encoder, layouts, texts.index(right), most_tokens)
    return questions


def _with_question(
    questions: Questions, encoder: ChatEncoder, layouts: list[Layout], label: int, most_tokens: int
) -> Questions:
    """One question more, unless it is too long or not faithful."""
    tokens = [trained_tokens(encoder, layout) for layout in layouts]
    texts = [rendering(layout) for layout in layouts]
    if max(map(len, tokens)) > most_tokens:
        return questions
    if [harness_tokens(encoder.tokenizer, *text) for text in texts] != tokens:
        return questions._replace(unfaithful=questions.unfaithful + 1)
    question = Question(texts[0][0], tuple(choice for _, choice in texts), label)
    return questions._replace(asked=[*questions.asked, question])


def split(messages: Messages) -> tuple[Messages, str]:
    """(the messages before the assistant's first answer, that answer)."""
    first = next(index for index, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:first], messages[first]["content"]


def neighbours(answers: list[str], right: str) -> list[str]:
    """The NEIGHBOURS other answers (all, where there are fewer) around `right` in `answers`, sorted by length."""
    place = answers.index(right)
    begin = max(0, min(place - NEIGHBOURS // 2, len(answers) - NEIGHBOURS - 1))
    return [answer for answer in answers[begin : begin + NEIGHBOURS + 1] if answer != right]


def rendering(layout: Layout) -> tuple[str, str]:
    """(prompt, choice) of a conversation with one answer: the text up to it; the answer and its stop token."""
    begin = next(index for index, piece in enumerate(layout.pieces) if piece.answer)
    prompt = "".join(piece.prompt for piece in layout.pieces[: begin + 1])
    return prompt, "".join(piece.answer for piece in layout.pieces)


def trained_tokens(encoder: ChatEncoder, layout: Layout) -> list[int]:
    """The tokens of such a conversation as training sees them, up to the stop token."""
    encoded = encoder.encode([layout])
    return encoded.ids[: np.flatnonzero(encoded.targets)[-1] + 1].tolist()


def harness_tokens(tokenizer: PreTrainedTokenizerFast, prompt: str, choice: str) -> list[int]:
    """The tokens that lm-eval feeds for a prompt and a choice when it is told to add no bos."""
    return tokenizer.encode(prompt + choice, add_special_tokens=False)
