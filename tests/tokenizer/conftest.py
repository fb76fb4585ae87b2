"""Small tokenizers trained once, on a few files of the standard library."""

import argparse
import ast
import csv
import inspect
import textwrap

import pytest

from tokenizer.train import train

HARD_STRINGS = (
    "",
    " ",
    "a\r\nb\r\n\r\n",
    "\tif x:\n\t\treturn\n",
    "\x00 NUL \x01\x7f",
    "\u00e9 e\u0301 \U0001f469\u200d\U0001f4bb \u6f22\u5b57 \u0915\u094d\u0937 \ufeff\ufffd\uffff",
    "<|bos|>text<|eos|><|pad|><|user|>\n<|end|>",
    "<0x41><unk></s>\u2581\u0120\u010a",
    "1234567890 \u0663\u0664 \u00bd",
    " " * 500 + "\n" * 300 + "=" * 700,
)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return [inspect.getsource(module) for module in (argparse, ast, csv, textwrap)]


@pytest.fixture(scope="session")
def bpe(texts):
    return train(texts, 1000, "bpe")


@pytest.fixture(scope="session")
def unigram(texts):
    return train(texts, 600, "unigram")


@pytest.fixture(params=["bpe", "unigram"])
def trained(request):
    return request.getfixturevalue(request.param)
