"""Catches questions with the wrong key, and a harness that is fed other tokens than training was."""

import copy
import io

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from tokenizers.processors import TemplateProcessing
from transformers.modeling_outputs import CausalLMOutput

from pipeline.data.chat import ChatEncoder, encode_conversation
from pipeline.scores.answers import MultipleChoice
from pipeline.scores.choices import CHOICES, NEIGHBOURS, build_questions, neighbours
from pipeline.scores.harness import METRICS, TASK, figures_of
from pipeline.scores.score import Settings
from tests.stages.tiny_model import VOCABULARY, make_model, make_tokenizer

MOST_TOKENS = 64


def conversation(number):
    answer = f"the {number}th thing\n  that ends" + " it" * (number // 2)
    return [{"role": "user", "content": f"what is {number}?"}, {"role": "assistant", "content": answer}]


CONVERSATIONS = [conversation(number) for number in range(40)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def make_part(tokenizer):
    """Six questions."""
    settings = Settings(
        seed=0, window=MOST_TOKENS, bf16=False, batch_size=3, bootstrap_samples=100, progress=io.StringIO()
    )
    return MultipleChoice([{"messages": messages} for messages in CONVERSATIONS], tokenizer, 6, settings)


@pytest.fixture
def part(tokenizer):
    return make_part(tokenizer)


@pytest.fixture
def fed(monkeypatch):
    """(tokens, likelihood of the choice) of every request that the harness puts to a model, filled as it does."""
    requests = []
    scored = HFLM._loglikelihood_tokens

    def spy(self, tokenized, **settings):
        answers = scored(self, tokenized, **settings)
        tokens = [context + continuation for _, context, continuation in tokenized]
        requests.extend((ids, likelihood) for ids, (likelihood, _) in zip(tokens, answers, strict=True))
        return answers

    monkeypatch.setattr(HFLM, "_loglikelihood_tokens", spy)
    return requests


def questions(tokenizer, conversations=CONVERSATIONS, count=12, most_tokens=MOST_TOKENS, seed=0):
    return build_questions(ChatEncoder(tokenizer), conversations, count, most_tokens, seed)


def test_the_key_is_the_answer_of_the_prompt_and_no_other_choice_is(tokenizer):
    found = questions(tokenizer, count=24).asked
    assert len(found) == 24
    assert {question.label for question in found} == set(range(CHOICES))
    for question in found:
        user, answer = next(pair for pair in CONVERSATIONS if pair[0]["content"] + "<" in question.prompt)
        rendered = tokenizer.apply_chat_template([user], tokenize=False, add_generation_prompt=True)
        assert question.prompt == rendered
        assert question.choices[question.label] == answer["content"] + "<|end|>"
        assert len(set(question.choices)) == CHOICES
        # 24 answers further the length differs by 12 times " it" and the digits of the number.
        assert max(abs(len(choice) - len(answer["content"] + "<|end|>")) for choice in question.choices) <= 38


def test_questions_are_drawn_by_the_seed(tokenizer):
    assert questions(tokenizer) == questions(tokenizer)
    assert questions(tokenizer, seed=1) != questions(tokenizer)


def test_wrong_answers_are_about_as_long():
    answers = sorted(("x" * length for length in range(1, 200)), key=len)
    for place in (0, 5, 100, 198):
        found = [len(answer) for answer in neighbours(answers, answers[place])]
        assert len(found) == NEIGHBOURS
        assert max(abs(length - place - 1) for length in found) <= NEIGHBOURS
        assert place + 1 not in found
    assert neighbours(["a", "bb", "ccc"], "bb") == ["a", "ccc"]


def test_what_cannot_be_asked_is_left_out_and_counted(tokenizer):
    typed = [{"role": "user", "content": "what does <|end|> end?"}, CONVERSATIONS[0][1]]
    found = questions(tokenizer, [typed, *CONVERSATIONS[1:10]], count=99)
    assert (len(found.asked), found.unfaithful) == (9, 1)
    assert questions(tokenizer, most_tokens=10).asked == []
    assert questions(tokenizer, [conversation(1)] * 8).asked == []


@pytest.fixture
def eager(tokenizer):
    """A tokenizer that opens every text with bos where it is let, with a template that writes none."""
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", tokenizer.bos_token_id)]
    )
    other.chat_template = tokenizer.chat_template.replace("{{ bos_token }}\n", "")
    assert other.encode("x")[0] == tokenizer.bos_token_id
    return other


@pytest.mark.parametrize(("name", "bos"), [("tokenizer", 1), ("eager", 0)])
def test_the_harness_feeds_the_tokens_of_training(name, bos, fed, request):
    tokenizer = request.getfixturevalue(name)
    part = make_part(tokenizer)
    part.measure(make_model(0), tokenizer)
    expected = []
    for question in part.questions.asked:
        user = question.prompt.split("<|user|>\n")[1].split("<|end|>")[0]
        for choice in question.choices:
            answer = choice.removesuffix("<|end|>")
            messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
            ids, targets = encode_conversation(tokenizer, messages)
            expected.append(ids[: np.flatnonzero(targets)[-1] + 1].tolist())
    assert [ids for ids, _ in fed] == expected
    assert {ids.count(tokenizer.bos_token_id) for ids, _ in fed} == {bos}


def rigged(known):
    """A model that continues the sequences in `known` as they go on, and has no opinion elsewhere."""
    model = make_model(0)

    def forward(input_ids, **settings):
        logits = torch.zeros(*input_ids.shape, VOCABULARY)
        for row, ids in enumerate(input_ids.tolist()):
            for position in range(len(ids)):
                for sequence in known:
                    if sequence[: position + 1] == ids[: position + 1] and len(sequence) > position + 1:
                        logits[row, position, sequence[position + 1]] = 9.0
        return CausalLMOutput(logits=logits)

    model.forward = forward
    return model


@pytest.mark.parametrize(("shift", "share"), [(0, 1.0), (1, 0.0)])
def test_a_model_that_knows_the_answers_is_right_and_one_that_knows_others_wrong(
    tokenizer, part, shift, share
):
    known = []
    for question in part.questions.asked:
        choice = question.choices[(question.label + shift) % CHOICES]
        known.append(tokenizer.encode(question.prompt + choice, add_special_tokens=False))
    measured = {"base": part.measure(rigged(known), tokenizer)}
    assert measured["base"]["correct"] == {"acc": [share] * 6, "acc_norm": [share] * 6}
    scores = {score.name: score for score in part.scores(measured)}
    assert scores["multiple choice acc"].value == scores["multiple choice acc_norm"].value == share
    assert scores["multiple choice acc"].count == 6


def test_a_single_question_has_a_score_without_an_interval(tokenizer):
    settings = make_part(tokenizer).settings
    part = MultipleChoice([{"messages": messages} for messages in CONVERSATIONS], tokenizer, 1, settings)
    measured = part.measure(make_model(0), tokenizer)
    assert [(score.value in (0.0, 1.0), score.interval) for score in part.scores({"base": measured})] == [
        (True, None)
    ] * 2


def test_metrics_are_kept_apart():
    figures = {f"{name}{suffix},none": f"{name}{suffix}" for name in METRICS for suffix in ("", "_stderr")}
    samples = [{"acc": 1.0, "acc_norm": 0.0}, {"acc": 0.0, "acc_norm": 0.0}]
    found = figures_of({"results": {TASK: figures}, "samples": {TASK: samples}})
    assert found.pop("correct") == {"acc": [1.0, 0.0], "acc_norm": [0.0, 0.0]}
    assert found == {name: name for name in ("acc", "acc_stderr", "acc_norm", "acc_norm_stderr")}


def test_likelihoods_are_those_of_the_conversation_and_the_line_end_before_its_answer(tokenizer, part, fed):
    model = make_model(3)
    part.measure(model, tokenizer)
    assistant = tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert len(fed) == 6 * CHOICES
    for ids, likelihood in fed:
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        places = range(ids.index(assistant), len(ids) - 1)
        expected = sum(float(logp[place, ids[place + 1]]) for place in places)
        assert likelihood == pytest.approx(expected, rel=5e-7)  # worst seen: 1.2e-7
