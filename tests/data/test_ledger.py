"""Catches a ledger that lets tokens appear or vanish."""

import json

import pytest

from pipeline.data.ledger import Ledger


def test_a_balanced_ledger_is_json():
    ledger = Ledger(
        "x", tokens_in=10, kept=6, truncated=3, dropped=1, rows=2, row_length=4, inputs=6, padded=2
    )
    assert json.loads(json.dumps(ledger.as_json())) == {
        "name": "x",
        "tokens_in": 10,
        "kept": 6,
        "truncated": 3,
        "dropped": 1,
        "rows": 2,
        "row_length": 4,
        "inputs": 6,
        "padded": 2,
    }


@pytest.mark.parametrize("field", ["tokens_in", "kept", "truncated", "dropped"])
def test_tokens_that_vanish_are_named(field):
    fields = {"tokens_in": 10, "kept": 6, "truncated": 3, "dropped": 1}
    fields[field] += 1
    with pytest.raises(
        AssertionError, match=rf"ledger x: {fields['tokens_in']} tokens in, but {fields['kept']} kept"
    ):
        Ledger("x", **fields).balance()


@pytest.mark.parametrize("field", ["rows", "inputs", "padded"])
def test_positions_that_vanish_are_named(field):
    fields = {"rows": 2, "row_length": 4, "inputs": 6, "padded": 2}
    fields[field] += 1
    with pytest.raises(AssertionError, match=rf"{fields['rows']} rows x 4 = .* {fields['padded']} padded"):
        Ledger("x", **fields).as_json()
