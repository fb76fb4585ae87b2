"""Catches a report that counts tokens for the wrong role or source."""

import json
import re

import numpy as np

from pipeline.data.chat import ChatEncoder
from pipeline.data.turns import ROLES, Tally, turns_of
from tests.data.test_supervision import recipe_for, shown

TURNS = [
    {"role": "system", "content": "You are brief."},
    {"role": "user", "content": "the thing that ends"},
    {"role": "assistant", "content": "the thing"},
    {"role": "user", "content": "the thing that ends"},  # the same words again
    {"role": "assistant", "content": "that ends"},
]


def test_tokens_stand_in_the_turn_whose_words_they_are(ours):
    encoder = ChatEncoder(ours, "all")
    [layout] = encoder.lay_out(TURNS)
    encoded = encoder.encode([layout])
    texts = {}
    for token, role in zip(encoded.ids, encoded.roles, strict=True):
        texts[ROLES[role]] = texts.get(ROLES[role], "") + ours.decode([token])
    assert len(encoded.roles) == len(encoded.ids)
    assert "You are brief." in texts["system"]
    assert texts["user"].count("the thing that ends") == 2
    assert "the thing" in texts["assistant"].split("that ends")[0]
    assert set(texts) == {"system", "user", "assistant"}


def test_what_is_taught_is_the_assistants(ours):
    encoder = ChatEncoder(ours)
    encoded = encoder.encode(encoder.lay_out(TURNS))
    assert {ROLES[role] for role in encoded.roles[encoded.targets > 0]} == {"assistant"}


def test_the_roles_of_one_layout_do_not_move_into_the_next(ours):
    encoder = ChatEncoder(ours)
    [one], [other] = encoder.lay_out(TURNS), encoder.lay_out(TURNS[1:3])
    apart = [encoder.encode([layout]).roles for layout in (one, other, encoder.document("plain"))]
    together = encoder.encode([one, other, encoder.document("plain")]).roles
    assert np.array_equal(together, np.concatenate(apart))
    assert {ROLES[role] for role in apart[2]} == {"text"}


def test_a_content_that_the_template_altered_is_passed_over():
    turns = turns_of(
        "<u>HELLO<a>yes", [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    )
    assert turns.begins.tolist() == [11]
    assert [ROLES[role] for role in turns.at(np.array([3, 14]))] == ["assistant", "assistant"]


def test_sources_and_roles_are_counted():
    tally = Tally()
    user, assistant = ROLES.index("user"), ROLES.index("assistant")
    for _ in range(2):
        tally.add(
            ["a", "b"],
            np.array([3, 2]),
            np.array([user, user, assistant, user, assistant]),
            np.array([0, 0, 1, 0, 0.5], np.float32),
        )
    assert tally.as_json() == {
        "by_source": {
            "a": {"rows": 2, "tokens": 6, "taught_tokens": 2},
            "b": {"rows": 2, "tokens": 4, "taught_tokens": 2},
        },
        "by_role": {
            "user": {"tokens": 6, "taught_tokens": 0},
            "assistant": {"tokens": 4, "taught_tokens": 4},
        },
    }


def test_the_stage_counts_every_token_of_a_split_once_by_source_and_once_by_role(tmp_path, ours):
    recipe = recipe_for(tmp_path, ours)
    lines = [json.dumps({"prompt": f"{n}?", "completion": "that ends"}) for n in range(30)]
    (tmp_path / "e.jsonl").write_text("\n".join(lines))
    sources = f"{{path: {tmp_path}/d.jsonl}}, {{path: {tmp_path}/e.jsonl, repeats: 2}}"
    recipe.write_text(
        recipe.read_text().replace(f"chat: {{path: {tmp_path}/d.jsonl}}", f"chat: {{sources: [{sources}]}}")
    )
    done = shown(recipe)
    assert done.returncode == 0, done.stderr
    for split in ("train", "held_out"):
        [head, *lines] = (
            done.stdout.split(f"conversations.{split}: ")[1].split("conversations.")[0].splitlines()
        )
        rows, *total = numbers(head)[:3]
        figures = {line.split(":")[0].strip(): numbers(line) for line in lines if line.endswith(" taught")}
        by_source = [figures.pop(f"{number} {tmp_path}/{name}.jsonl") for number, name in enumerate("de")]
        assert np.sum(by_source, axis=0).tolist() == [rows, *total]
        assert set(figures) <= set(ROLES) and {"user", "assistant"} <= set(figures)
        assert np.sum(list(figures.values()), axis=0).tolist() == total


def numbers(line):
    return [int(found.replace(",", "")) for found in re.findall(r"[\d,]*\d", line.rpartition(".jsonl")[2])]
