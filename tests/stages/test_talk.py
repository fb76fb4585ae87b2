"""Catches a chat that forgets or garbles what was said, outgrows the model, or cannot be driven through a pipe."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_model import POSITIONS, make_model, make_tokenizer, publish, publish_model

from pipeline.data import sources
from pipeline.data.chat import ChatEncoder
from pipeline.data.config import Chat
from pipeline.lm import chat
from pipeline.lm.calls import Tools
from pipeline.lm.chat import Talk, pieces, run_chat
from pipeline.lm.decoding import sample
from pipeline.lm.directory import model_directory
from pipeline.lm.prompts import chat_prompt
from pipeline.run.errors import UserError
from pipeline.train.seeds import derived_seed


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    output = tmp_path_factory.mktemp("run")
    publish_model(output, "pretrain", make_model(5))
    publish_model(output, "finetune", make_model(6))
    return output


@pytest.fixture
def make_talk(tokenizer):
    def make(**settings):
        settings = {"max_new_tokens": 4, "temperature": 0.9, "top_p": 1.0, "seed": 0} | settings
        return Talk(make_model(6), tokenizer, ChatEncoder(tokenizer), **settings)

    return make


def interrupted(*_):
    """In place of `pieces`: Ctrl-C in the middle of an answer."""
    yield "half"
    raise KeyboardInterrupt


def said(talk, *lines):
    out = io.StringIO()
    chat.chat(talk, iter(lines), out)
    return out.getvalue()


def test_text_is_streamed_in_whole_characters(tokenizer):
    text = "e\u0301 \U0001f469\u200d\U0001f4bb then \u6f22"
    ids = tokenizer(text)["input_ids"]
    found = list(pieces(tokenizer, iter([*ids, None])))
    assert "".join(found) == text
    assert not any("\ufffd" in piece for piece in found)
    assert len([piece for piece in found if piece]) > 5
    broken = tokenizer("\u6f22")["input_ids"][:-1]
    assert "".join(pieces(tokenizer, iter(broken))) == tokenizer.decode(broken)


def test_answers_are_those_of_sampling_the_whole_conversation(make_talk, tokenizer):
    talk = make_talk()
    out = said(talk, "what is it?\n", "and then?\n")
    messages, expected = [], []
    for turn, text in enumerate(("what is it?", "and then?")):
        messages.append({"role": "user", "content": text})
        prompt, seed = chat_prompt(talk.encoder, messages), derived_seed(0, "chat", turn)
        ids = sample(talk.model, tokenizer, prompt, 4, 0.9, 1.0, seed)
        expected.append(tokenizer.decode(ids, skip_special_tokens=True))
        messages.append({"role": "assistant", "content": expected[-1]})
    assert out == "".join(f"{answer}\n" for answer in expected)
    assert talk.messages == messages


def test_seed_decides_and_reset_begins_anew(make_talk):
    first = said(make_talk(), "what is it?")
    assert said(make_talk(), "what is it?", "/reset", "what is it?") == f"{first}(forgotten)\n{first}"
    assert said(make_talk(seed=1), "what is it?") != first
    assert said(make_talk(temperature=None, seed=1), "what?") == said(make_talk(temperature=None), "what?")


def test_retry_answers_the_last_turn_anew_by_another_draw(make_talk):
    talk = make_talk(max_new_tokens=8)
    first = said(talk, "what is it?", "and then?")
    again = said(talk, "/retry")
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[2]["content"] == "and then?" and talk.messages[3]["content"] == again.rstrip("\n")
    assert again not in first
    assert said(make_talk(), "/retry") == "(nothing was asked yet)\n"


def test_a_retry_that_is_interrupted_leaves_the_answer_there(make_talk, monkeypatch):
    talk = make_talk()
    said(talk, "what is it?")
    before = list(talk.messages)

    monkeypatch.setattr(chat, "pieces", interrupted)
    said(talk, "/retry")
    assert talk.messages == before


def test_a_system_message_stands_before_every_turn(make_talk, tokenizer):
    talk = make_talk()
    said(talk, "what?")
    assert said(talk, "/system be brief") == "(begins anew under: be brief)\n"
    assert not talk.messages
    said(talk, "what is it?")
    system, asked = {"role": "system", "content": "be brief"}, {"role": "user", "content": "what is it?"}
    ids = sample(
        talk.model,
        tokenizer,
        chat_prompt(talk.encoder, [system, asked]),
        4,
        0.9,
        1.0,
        derived_seed(0, "chat", 0),
    )
    assert talk.messages[1]["content"] == tokenizer.decode(ids, skip_special_tokens=True)
    for _ in range(4):  # older turns go, what they stand under does not
        said(talk, "and then the other thing")
    assert talk.said["messages"][0] == system and talk.messages[0]["role"] == "user"
    assert said(talk, "/system") == "(begins anew)\n" and talk.said == {"messages": []}


def test_a_template_without_a_system_turn_refuses_it_and_nothing_is_forgotten(
    make_talk, tokenizer, monkeypatch
):
    talk = make_talk()
    said(talk, "what?")
    before = list(talk.messages)

    def refused(messages, tools=()):
        raise UserError("the chat template refuses these messages: no system")

    monkeypatch.setattr(talk.encoder, "prompt_ids", refused)
    assert said(talk, "/system be brief") == "(the chat template refuses these messages: no system)\n"
    assert (talk.messages, talk.system) == (before, None)


def test_a_saved_conversation_is_a_row_to_train_on(make_talk, tmp_path):
    talk = make_talk()
    file = tmp_path / "said.jsonl"
    said(talk, "/system be brief", "what is it?", f"/save {file}", "and then?", f"/save {file}")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [len(row["messages"]) for row in rows] == [3, 5] and rows[1] == talk.said
    found = list(sources.conversations(Chat(path=str(file)), []))
    assert [list(row.messages) for row in found] == [row["messages"] for row in rows]
    assert said(talk, f"/save {tmp_path}") == f"(Is a directory: {tmp_path})\n"
    assert said(talk, "/save") == f"({chat.HELP})\n"


TOOLS = '''
import math

calls = []


def area(width: float, height: float = 1.0) -> float:
    """The area of a rectangle.

    Args:
        width: in metres
        height: in metres
    """
    calls.append((width, height))
    return width * height


def fails(why: str) -> str:
    """Fails.

    Args:
        why: what is wrong
    """
    raise ValueError(why)


def _hidden():
    pass
'''


@pytest.fixture
def with_tools(make_talk, tmp_path, monkeypatch, tokenizer):
    """`with_tools(said, ...)`: a talk whose model says these, one after the other, and what it was prompted with."""

    def make(*speech):
        (tmp_path / "tools.py").write_text(TOOLS)
        talk = make_talk(tools=Tools(tmp_path / "tools.py"))
        talk.encoder = ChatEncoder(tokenizer, unwritten="text")
        prompts, waiting = [], iter(speech)

        def speak(prompt, turn, out):
            prompts.append(tokenizer.decode(prompt))
            words = next(waiting)
            out.write(words)
            return words

        monkeypatch.setattr(talk, "_speak", speak)
        monkeypatch.setattr("pipeline.lm.model.positions_of", lambda config: None)
        return talk, prompts

    return make


def test_a_tool_is_called_and_the_model_goes_on_with_what_it_gives(with_tools, tmp_path):
    call = '<tool_call>[{"name": "area", "arguments": {"width": 3, "height": 2}}]</tool_call>'
    talk, prompts = with_tools(f"Let me see. {call}", "It is 6.", "Gladly.")
    out = said(talk, "How large is it?", "Thanks", f"/save {tmp_path / 'rows.jsonl'}")
    assert '(area {"width": 3, "height": 2} gives 6)' in out and "It is 6." in out
    assert [message["role"] for message in talk.messages] == ["user", "assistant", "tool", "assistant"] + [
        "user",
        "assistant",
    ]
    assert talk.messages[1]["content"] == "Let me see." and talk.messages[2]["content"] == "6"
    assert "in metres" in prompts[0] and "_hidden" not in prompts[0]
    assert "<tool_response>6" in prompts[1]
    [row] = sources.conversations(Chat(path=str(tmp_path / "rows.jsonl")), [])
    assert len(row.messages) == 6 and row.tools[0]["function"]["name"] == "area"
    assert talk.take_back() == "Thanks" and len(talk.messages) == 4
    assert talk.take_back() == "How large is it?" and not talk.messages, "an exchange with its calls is one"


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ('{"name": "area", "arguments": {"side": 3}}', "error: area takes other arguments"),
        ('{"name": "volume", "arguments": {}}', "error: there is no tool volume, only area, fails"),
        ('{"name": "fails", "arguments": {"why": "no disk"}}', "error: ValueError: no disk"),
        ('{"name": "_hidden", "arguments": {}}', "error: there is no tool _hidden"),
    ],
)
def test_a_call_that_cannot_be_made_is_news_for_the_model(with_tools, call, told):
    talk, prompts = with_tools(call, "I see.")
    assert told in said(talk, "Do it") and told[:20] in prompts[1]


def test_calls_without_end_are_ended(with_tools):
    talk, prompts = with_tools(*['{"name": "area", "arguments": {"width": 1}}'] * 20)
    assert f"no more calls: {chat.ROUNDS} rounds" in said(talk, "Go on")
    assert len(prompts) == chat.ROUNDS and talk.messages[-1]["role"] == "assistant"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "No such file"),
        ("x = 1", "defines no function"),
        ("1 / 0", "cannot be run: ZeroDivisionError"),
        ("def f(a):\n    return a\n", "f cannot be described to a model"),
    ],
)
def test_a_file_that_offers_no_tools_is_refused(tmp_path, content, named):
    if content is not None:
        (tmp_path / "t.py").write_text(content)
    with pytest.raises(UserError, match=f"--tools: .*t.py(.|\n)*{named}"):
        Tools(tmp_path / "t.py")


def test_quit_ends_and_other_commands_explain(make_talk):
    assert said(make_talk(), "/help", "\n", "/quit", "never") == f"({chat.HELP})\n"


def test_oldest_exchanges_go_when_the_model_is_full(make_talk):
    talk = make_talk()
    outs = [said(talk, text) for text in ("the end " * 2, "a thing " * 2, "and then " * 2, "what is it?")]
    assert "oldest messages were dropped" not in outs[0]
    assert "2 oldest messages were dropped" in "".join(outs)
    assert talk.messages[0]["role"] == "user"
    assert len(chat_prompt(talk.encoder, talk.messages)) <= POSITIONS + 4


@pytest.mark.parametrize(("max_new_tokens", "room"), [(4, 4), (16, 16), (40, POSITIONS // 2)])
def test_as_much_is_kept_as_leaves_room_for_an_answer(make_talk, max_new_tokens, room):
    talk = make_talk(max_new_tokens=max_new_tokens)
    texts = ("zq" * 11, "is a thing", "and the other zqzq", "then it ends zqzq", "what is it")
    roles = ("user", "assistant", "user", "assistant", "user")
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]
    suffixes = [messages[begin:] for begin in (0, 2, 4)]
    fitting = [kept for kept in suffixes if len(chat_prompt(talk.encoder, kept)) + room <= POSITIONS]
    assert 0 < len(fitting) < 3
    prompt, kept = talk._fit(messages)
    assert kept == fitting[0]
    assert prompt == chat_prompt(talk.encoder, kept)


def test_turn_that_is_too_long_alone_is_refused_and_forgotten(make_talk):
    talk = make_talk()
    said(talk, "what is it?")
    before = list(talk.messages)
    out = said(talk, "zq" * POSITIONS)
    assert f"the model has {POSITIONS} positions" in out
    assert talk.messages == before


def test_interrupt_ends_the_answer_alone(make_talk, monkeypatch):
    talk = make_talk()
    said(talk, "what is it?")
    before = list(talk.messages)

    monkeypatch.setattr(chat, "pieces", interrupted)
    assert said(talk, "and then?") == "half\n(stopped and forgotten)\n"
    assert talk.messages == before


def test_last_model_of_a_run_is_the_one_to_talk_to(run, tmp_path):
    assert model_directory(run) == run / "finetune" / "model"
    assert model_directory(run / "pretrain" / "model") == run / "pretrain" / "model"
    with pytest.raises(UserError, match="no model in"):
        model_directory(tmp_path)
    publish(run, "export", lambda path: (path / "config.json").write_text("{}"))
    assert model_directory(run) == run / "export"
    (run / "export" / "config.json").unlink()


def test_model_without_chat_template_is_refused(run, tmp_path):
    import shutil

    copy = shutil.copytree(run / "finetune" / "model", tmp_path / "model")
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        run_chat([str(copy)])


@pytest.mark.parametrize(
    "option", [("--max-new-tokens", "0"), ("--temperature", "-1"), ("--temperature", "nan"), ("--top-p", "x")]
)
def test_settings_that_are_none_are_refused(run, option, capsys):
    with pytest.raises(SystemExit) as ended:
        run_chat([str(run), *option])
    assert ended.value.code == 2
    assert f"{option[1]!r} given, expected: a " in capsys.readouterr().err


def test_command_answers_lines_from_a_pipe(run):
    root = str(Path(__file__).parents[2])
    command = [
        sys.executable,
        "-m",
        "pipeline",
        "chat",
        str(run),
        "--temperature",
        "0",
        "--max-new-tokens",
        "6",
    ]
    done = subprocess.run(
        command,
        input="what is it?\n/reset\nwhat is it?\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("(forgotten)\n")
    assert first == second
    assert first.strip() and "Traceback" not in done.stderr
