"""Catches text that is lost, or held-out text that is rewritten, where gaps are learnt, and other lines taken out."""

import numpy as np
import pytest

from pipeline.data.config import Corpus
from pipeline.data.conversation import Document
from pipeline.data.infilling import marks_of, parts_of
from pipeline.data.kinds import Documents
from pipeline.data.sources import is_held_out
from pipeline.run.errors import UserError
from pipeline.scores.infilling import LONGEST, SHORTEST, cuts_of
from tests.chat_templates import tokenizer_of

TEXTS = [f"def f{n}(x):\n    return x + {n}  # naïve\n" * 3 for n in range(40)]
ROWS = [Document(f"file{n}.py", text) for n, text in enumerate(TEXTS)]
MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")


@pytest.fixture(scope="module")
def tokenizer():
    found = tokenizer_of("qwen3")
    found.add_special_tokens({"additional_special_tokens": list(MARKS)})
    return found


def encoded(tokenizer, share: float) -> list[list[int]]:
    corpus = Corpus(source="text", path="x", fim=share, held_out=0.2)
    ((_, found),) = Documents(corpus, tokenizer, []).encode(ROWS)
    return [ids.tolist() for ids in np.split(found.ids, np.cumsum(found.lengths)[:-1])]


def test_every_character_is_there_once_and_held_out_documents_are_as_they_are(tokenizer):
    before, behind, middle = tokenizer.convert_tokens_to_ids(list(MARKS))
    plain, rewritten = encoded(tokenizer, 0.0), encoded(tokenizer, 0.6)
    changed = 0
    for row, ids, alone in zip(ROWS, rewritten, plain, strict=True):
        assert ids[0] == alone[0] and ids[-1] == alone[-1]
        if before not in ids:
            assert ids == alone
            continue
        changed += 1
        assert not is_held_out(row.key, 0.2) and ids[1] == before
        places = [ids.index(mark) for mark in (before, behind, middle)]
        parts = [
            tokenizer.decode(ids[first + 1 : last], clean_up_tokenization_spaces=False)
            for first, last in zip(places, [*places[1:], len(ids) - 1], strict=True)
        ]
        assert parts[0] + parts[2] + parts[1] == row.text
    assert 10 < changed < 30
    assert encoded(tokenizer, 0.6) == rewritten  # a function of the keys


def test_cuts_reach_everywhere():
    found = [parts_of(f"k{n}", "abcdefgh", 1.0) for n in range(300)]
    assert all("".join(parts) == "abcdefgh" for parts in found)
    assert {len(parts[0]) for parts in found} == {len(parts[2]) for parts in found} == set(range(9))
    assert sum(parts_of(f"k{n}", "ab", 0.3) is not None for n in range(1000)) == pytest.approx(300, abs=60)


def test_a_tokenizer_without_the_marks_is_refused_with_the_way_out(tokenizer):
    with pytest.raises(UserError, match=r"has no token '<b>'\nway out: model.add_special_tokens="):
        marks_of(
            Corpus(source="text", path="x", fim=0.5, fim_tokens=("<|im_start|>", "<b>", "<c>")), tokenizer
        )


def test_lines_that_are_taken_out_leave_the_document_around_them():
    texts = [
        "    a first line here\nx\n\tanother longer line  \n",
        "one short\ny\n" + "z" * (LONGEST + 1) + "\nthe last line is here",
    ]
    found = cuts_of(texts, 9, 0)
    assert {line for _, line, _ in found} == {"another longer line", "the last line is here"}
    for before, line, behind in found:
        assert before + line + behind in texts and SHORTEST <= len(line) <= LONGEST
        assert line == line.strip()
    assert cuts_of(texts, 1, 0) == cuts_of(texts, 1, 0) and len(cuts_of(texts, 1, 0)) == 1
