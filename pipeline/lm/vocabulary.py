"""New entries for a pretrained model's vocabulary: words that are given, or those that a corpus needs most.

Words of a corpus are found by going on with the tokenizer's own BPE where it stopped: again and again the pair of
neighbouring tokens that occurs most often becomes one (Sennrich et al., arXiv:1508.07909). All that the tokenizer
merged before stays as it is, for the new merges come last.

The new rows of embeddings and head begin at the mean of the rows that spelled the word before.
"""

from __future__ import annotations

import heapq
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.run.errors import UserError
from pipeline.run.files import write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MOST_CHARACTERS = 50_000_000  # of the corpus, counted for its words
LEAST_OFTEN = 3  # times that a pair must occur to become a token
FILE, BEFORE, ROWS = "added.json", "tokenizer_before", "rows.safetensors"


class Added(NamedTuple):
    """A new entry, and the ids of the old ones that spelled it; none: its row begins at the mean of all."""

    token: str
    id: int
    spelled: tuple[int, ...]


def check_listed(tokenizer: PreTrainedTokenizerFast, tokens: Iterable[str], key: str) -> None:
    """Refuse tokens that are there already, empty, or twice in the list.

    Raises:
        UserError: naming the first of them.
    """
    vocabulary, seen = tokenizer.get_vocab(), set()
    for token in tokens:
        if not token.strip() or token in seen:
            why = "is in the list twice" if token in seen else "is empty"
        elif token in vocabulary:
            why = f"is in the vocabulary already, as token {vocabulary[token]}"
        else:
            seen.add(token)
            continue
        raise UserError(f"model.{key}: {token!r} {why}\nexpected: tokens that the model does not have")


def check_continuable(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer whose merges cannot be gone on with.

    Raises:
        UserError: it is no BPE, or does not cut texts into words first.
    """
    if _has_words(tokenizer.backend_tokenizer):
        return
    raise UserError(
        "model.add_tokens: a number goes on with the tokenizer's own merges, and this tokenizer is no BPE that cuts "
        "texts into words\nway out: the list of tokens"
    )


def _has_words(backend: Backend) -> bool:
    tree = json.loads(backend.to_str())
    if tree["model"]["type"] != "BPE" or backend.pre_tokenizer is None:
        return False
    return len(backend.pre_tokenizer.pre_tokenize_str("two words")) > 1


def grown(
    tokenizer: PreTrainedTokenizerFast,
    files: Path | None,
    tokens: Sequence[str],
    special: Sequence[str],
    merges: list[tuple[str, str]],
    out: Path,
) -> tuple[PreTrainedTokenizerFast, list[Added]]:
    """Write a tokenizer's files with new entries to the empty folder `out`; the tokenizer in there, and what is new.

    tokens, special: as check_listed takes them. files: where the tokenizer's own lie, kept but for what must change;
    None: they are written anew.
    """
    from transformers import AutoTokenizer

    _copy_files(tokenizer, files, out)
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    added = _merged(tree["model"], merges, max(tokenizer.get_vocab().values()) + 1)
    (out / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    new = AutoTokenizer.from_pretrained(out, local_files_only=True)
    if tokens or special:
        added += _listed(new, tokenizer.backend_tokenizer, tokens, special)
        new.save_pretrained(out)
        new = AutoTokenizer.from_pretrained(out, local_files_only=True)
    wrong = [one for one in added if new.convert_tokens_to_ids(one.token) != one.id]
    assert not wrong, f"tokens that did not get their ids: {wrong[:3]}"
    return new, added


def _merged(model: dict[str, Any], merges: list[tuple[str, str]], first: int) -> list[Added]:
    """Put further merges into the model of a tokenizer.json; what they make, with ids from `first` on."""
    added: list[Added] = []
    spelled: dict[str, tuple[int, ...]] = {}
    for left, right in merges:
        token = left + right
        spelled[token] = _spelled(left, model["vocab"], spelled) + _spelled(right, model["vocab"], spelled)
        added.append(Added(token, first + len(added), spelled[token]))
        as_text = isinstance(model["merges"][0], str)
        model["merges"].append(f"{left} {right}" if as_text else [left, right])
    model["vocab"] |= {one.token: one.id for one in added}
    return added


def _listed(
    new: PreTrainedTokenizerFast, old: Backend, tokens: Sequence[str], special: Sequence[str]
) -> list[Added]:
    """Give a tokenizer tokens that are cut out of a text before anything else is; control tokens spell nothing."""
    from tokenizers import AddedToken

    new.add_tokens([AddedToken(token, normalized=False) for token in tokens])
    controls = [AddedToken(token, special=True, normalized=False) for token in special]
    new.add_tokens(controls, special_tokens=True)
    words = {token: tuple(old.encode(token, add_special_tokens=False).ids) for token in tokens}
    return [
        Added(token, new.convert_tokens_to_ids(token), words.get(token, ())) for token in (*tokens, *special)
    ]


def _spelled(token: str, entries: dict[str, int], new: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    return new[token] if token in new else (entries[token],)


def _copy_files(tokenizer: PreTrainedTokenizerFast, files: Path | None, out: Path) -> None:
    from pipeline.lm.model import TOKENIZER_FILES

    out.mkdir(parents=True, exist_ok=True)
    if files is None:
        tokenizer.save_pretrained(out)
        return
    # What transformers would read the old vocabulary from is left behind: tokenizer.json says it all.
    kept = set(TOKENIZER_FILES) - {"vocab.json", "merges.txt", "tokenizer.model", "added_tokens.json"}
    for name in sorted(kept):
        if (files / name).is_file():
            shutil.copyfile(files / name, out / name)


def grow(model: PreTrainedModel, added: list[Added]) -> None:
    """Give the model a row of embeddings and head for each new entry; tied ones stay tied."""
    import torch

    wanted = max(one.id for one in added) + 1
    if wanted > len(model.get_input_embeddings().weight):
        model.resize_token_embeddings(wanted, mean_resizing=False)
    old = min(one.id for one in added)
    with torch.no_grad():
        for table in _tables(model).values():
            everything = table[:old].mean(0)
            for one in added:
                table[one.id] = table[list(one.spelled)].mean(0) if one.spelled else everything


def _tables(model: PreTrainedModel) -> dict[str, Tensor]:
    """What has a row for each entry: the embeddings, and the head and its bias where they are weights of their own."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables = {"embedding": embedding.weight}
    if head.weight is not embedding.weight:
        tables["head"] = head.weight
    if getattr(head, "bias", None) is not None:
        tables["bias"] = head.bias
    return tables


def merges_of(backend: Backend, texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The next `count` merges of a BPE tokenizer on these texts: pairs of tokens, in the order of becoming one.

    Fewer, where no pair is left that occurs LEAST_OFTEN times.
    """
    return next_merges(_words(backend, texts), set(backend.get_vocab()), count)


def _words(backend: Backend, texts: Iterable[str]) -> dict[tuple[str, ...], int]:
    """Each word of the texts as the tokens that it is now, and how often it occurs."""
    counts: Counter[str] = Counter()
    read = 0
    for text in texts:
        plain = text if backend.normalizer is None else backend.normalizer.normalize_str(text)
        counts.update(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
        read += len(text)
        if read >= MOST_CHARACTERS:
            break
    found: dict[tuple[str, ...], int] = defaultdict(int)
    for word, count in counts.items():
        found[tuple(token.value for token in backend.model.tokenize(word))] += count
    return found


def next_merges(words: dict[tuple[str, ...], int], vocabulary: set[str], count: int) -> list[tuple[str, str]]:
    """`count` times the pair that occurs most often in the words, each made one token before the next is looked for.

    Of pairs that occur equally often the one that sorts first is taken. Left out are pairs that spell a token that is
    there already, and digits where the vocabulary has them one by one.
    """
    items, counts = [list(word) for word in words], list(words.values())
    often: Counter[tuple[str, str]] = Counter()
    places: dict[tuple[str, str], set[int]] = defaultdict(set)
    for number, word in enumerate(items):
        for pair in pairwise(word):
            often[pair] += counts[number]
            places[pair].add(number)
    heap = [(-times, pair) for pair, times in often.items()]
    heapq.heapify(heap)
    merges: list[tuple[str, str]] = []
    known = set(vocabulary)
    whole_numbers = any(token.isdecimal() and len(token) > 1 for token in vocabulary)
    while heap and len(merges) < count:
        times, pair = heapq.heappop(heap)
        if often[pair] != -times:
            continue  # it was counted anew since, and stands in the heap again
        if -times < LEAST_OFTEN:
            break
        token = "".join(pair)
        if token in known or (not whole_numbers and any(map(str.isdecimal, token))):
            continue
        known.add(token)
        merges.append(pair)
        touched = set()
        for number in places.pop(pair):
            word, times = items[number], counts[number]
            for old in pairwise(word):
                often[old] -= times
                touched.add(old)
            items[number] = word = _joined(word, pair)
            for new in pairwise(word):
                often[new] += times
                places[new].add(number)
                touched.add(new)
        for one in touched:
            if often[one] > 0:
                heapq.heappush(heap, (-often[one], one))
    return merges


def _joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    """The word with every occurrence of the pair as one token, from the left."""
    found, place = [], 0
    while place < len(word):
        both = place + 1 < len(word) and (word[place], word[place + 1]) == pair
        found.append("".join(pair) if both else word[place])
        place += 2 if both else 1
    return found


# What the stage `base` leaves beside its model.


def keep_before(
    tokenizer: PreTrainedTokenizerFast, files: Path | None, model: PreTrainedModel, base: Path
) -> None:
    """Keep the tokenizer as it came, and the rows that its model has for no entry: new ones take their places."""
    from safetensors.torch import save_file

    _copy_files(tokenizer, files, base / BEFORE)
    first = max(tokenizer.get_vocab().values()) + 1
    spare = {name: table[first:].detach().clone() for name, table in _tables(model).items()}
    save_file(spare, base / BEFORE / ROWS, {"first": str(first)})


def as_it_came(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The pretrained model in the stage's `model/` without the entries that this run gave it, to the bit."""
    import torch
    from safetensors import safe_open

    from pipeline.lm.model import load_model, load_tokenizer

    model, before = load_model(directory), directory.parent / BEFORE
    if not before.is_dir():
        return model, load_tokenizer(directory)
    with safe_open(before / ROWS, framework="pt") as file:
        spare = {name: file.get_tensor(name) for name in file.keys()}
        first = int(file.metadata()["first"])
    model.resize_token_embeddings(first + len(spare["embedding"]), mean_resizing=False)
    with torch.no_grad():
        for name, table in _tables(model).items():
            table[first:] = spare[name]
    return model, load_tokenizer(before)


def write_added(added: list[Added], base: Path) -> None:
    write_json(base / FILE, [one._asdict() for one in added])


def added_ids(base: Path) -> list[int]:
    """Ids of what was added to the vocabulary; none where nothing was."""
    path = base / FILE
    return [one["id"] for one in json.loads(path.read_text())] if path.is_file() else []
