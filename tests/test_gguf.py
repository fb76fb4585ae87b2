"""Catches a GGUF file that is another model or another tokenizer, or a Modelfile whose turns are not the template's."""

import importlib.util
import json
import re
import subprocess

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from pipeline.__main__ import main
from pipeline.publish import verify_gguf
from pipeline.publish.gguf import _rotary_factors, cut_of, go_template, interleaved, modelfile, run_gguf
from pipeline.run.errors import UserError
from tests.exhaustive import exhaustive
from tests.helpers import refusal
from tests.stages.tiny_model import POSITIONS, TEXT, VOCABULARY, make_tokenizer

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 16}
SHAPES = {
    "llama": {},
    "llama untied, with biases": {"tie_word_embeddings": False, "attention_bias": True},
    "llama 3.1's frequencies": {"rope_parameters": LLAMA3},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 32},
}


def model_at(directory, shape="llama"):
    """A random model of that shape in `directory`, with a tokenizer."""
    torch.manual_seed(0)
    fields = {
        "vocab_size": VOCABULARY + 5, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": POSITIONS,
        "initializer_range": 0.3, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1,
    }  # fmt: skip
    config = AutoConfig.for_model(re.split(r"[ ']", shape)[0], **fields | SHAPES.get(shape, {}))
    model = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:  # as they begin, one for another would go unseen
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    directory.mkdir(parents=True)
    model.save_pretrained(directory)
    make_tokenizer(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return model_at(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_file_holds_the_model_to_the_last_bit(tmp_path, shape):
    """By transformers' reader; by llama.cpp too where it is installed, which also goes by the file's own shape."""
    measured = run_gguf(str(model_at(tmp_path / "model", shape)), tmp_path / "out.gguf", "f32")
    assert measured["transformers"]["logit_difference_relative"] < 1e-6
    if importlib.util.find_spec("llama_cpp"):
        assert measured["llama.cpp"]["logit_difference_relative"] < 1e-4
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["model", "out.Modelfile", "out.gguf"]


@pytest.mark.parametrize("kind", ["q8_0", *map(exhaustive, ["f16", "bf16", "q5_0", "q4_0"])])
def test_a_type_stores_matrices_so_and_vectors_whole(directory, tmp_path, kind):
    measured = run_gguf(str(directory), tmp_path / "out.gguf", kind)
    assert 0 < measured["transformers"]["logit_difference_relative"] < verify_gguf.BOUNDS[kind]
    stored = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert stored["blk.0.ffn_up.weight"].tensor_type.name == kind.upper()
    assert stored["output_norm.weight"].tensor_type.name == "F32"


def test_rows_that_no_block_divides_stay_in_half_precision(tmp_path):
    SHAPES["llama odd"] = {"intermediate_size": 72}
    run_gguf(str(model_at(tmp_path / "model", "llama odd")), tmp_path / "out.gguf", "q8_0")
    stored = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert stored["blk.0.ffn_down.weight"] == "F16" and stored["blk.0.ffn_up.weight"] == "Q8_0"


def test_pairs_that_turn_together_are_neighbours():
    rows = torch.arange(16.0)[:, None]  # two heads of eight
    assert interleaved(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_frequencies_are_divided_as_transformers_divides_them():
    config = AutoConfig.for_model("llama", rope_parameters=LLAMA3, max_position_embeddings=POSITIONS)
    theirs, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / 500_000.0 ** (np.arange(0, 128, 2) / 128)
    np.testing.assert_allclose(plain / _rotary_factors(config.to_dict()), theirs.numpy(), rtol=1e-6)


def test_vocabulary_stops_and_template_are_the_tokenizers(directory, tmp_path):
    run_gguf(str(directory), tmp_path / "out.gguf", "f32")
    fields = GGUFReader(tmp_path / "out.gguf").fields
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert tokens[len(tokenizer) :] == [f"[PAD{number}]" for number in range(len(tokenizer), VOCABULARY + 5)]
    types = fields["tokenizer.ggml.token_type"].contents()
    control = [number for number, kind in enumerate(types) if kind == 3]
    roles = ["<|user|>", "<|assistant|>", "<|system|>"]
    assert control == sorted({*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(roles)})
    assert fields["tokenizer.ggml.pre"].contents() == "smaug-bpe"
    assert fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    assert tokens[fields["tokenizer.ggml.eos_token_id"].contents()] == "<|eos|>"
    assert tokens[fields["tokenizer.ggml.eot_token_id"].contents()] == "<|end|>"
    embedding = next(t for t in GGUFReader(tmp_path / "out.gguf").tensors if t.name == "token_embd.weight")
    model = AutoModelForCausalLM.from_pretrained(directory)
    whole = dequantize(embedding.data, embedding.tensor_type)
    assert np.array_equal(whole, model.get_input_embeddings().weight.detach().numpy())


def filled(template, system, prompt, response):
    """What Ollama makes of its template, of the words that ours use."""
    shown = {"System": system, "Prompt": prompt, "Response": response}
    told = re.compile(r"\{\{ if \.(\w+) \}\}(.*?)\{\{ end \}\}", re.S)
    kept = told.sub(lambda match: match[2] if shown[match[1]] else "", template)
    return re.sub(r"\{\{ \.(\w+) \}\}", lambda m: shown[m[1]], kept)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}<s>you are kind</s>{% endif %}" + CHATML
FOLDED = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
)
SPACED = FOLDED.replace("{% else %}", "{% else %} ")  # a space that a question alone does not end with
LAST = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if loop.last %} (last){% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize(("template", "system"), [("own", True), (CHATML, True), (FOLDED, False)])
def test_ollamas_turns_are_the_templates(directory, template, system):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    if template != "own":
        tokenizer.chat_template = template
    made = go_template(tokenizer)
    turns = [{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so."}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False)
    if tokenizer.bos_token and expected.startswith(tokenizer.bos_token):
        expected = expected.removeprefix(tokenizer.bos_token)
    assert filled(made, "", "why?", "so.") == expected
    if system:
        whole = tokenizer.apply_chat_template(
            [{"role": "system", "content": "be brief"}, *turns], tokenize=False
        )
        assert filled(made, "be brief", "why?", "so.").endswith(whole.removeprefix(tokenizer.bos_token or ""))


@pytest.mark.parametrize("template", [LAST, SPACED, DEFAULT_SYSTEM])
def test_a_template_without_a_pattern_is_left_to_the_file(directory, template):
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = template
    assert go_template(tokenizer) is None


def test_a_modelfile_names_the_file_and_the_stops(directory):
    text = modelfile(directory, "out.gguf", ["<|eos|>", 'a"b'])
    assert text.startswith("FROM ./out.gguf\nTEMPLATE") and 'PARAMETER stop "a\\"b"\n' in text


def changed(directory, copy, **fields):
    """A copy of the model whose config says otherwise."""
    subprocess.run(["cp", "-r", str(directory), str(copy)], check=True)
    config = json.loads((copy / "config.json").read_text()) | fields
    (copy / "config.json").write_text(json.dumps(config))
    return str(copy)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "gemma3_text"}, "models of type gemma3_text are not written as GGUF here"),
        ({"model_type": "mistral", "sliding_window": 4096}, "sliding windows of mistral"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type 'yarn'"),
    ],
)
def test_what_has_no_place_in_the_format_is_refused_and_nothing_is_left(directory, tmp_path, fields, said):
    model = changed(directory, tmp_path / "model", **fields)
    assert said in refusal(run_gguf, model, tmp_path / "out.gguf", "f16")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_way_to_cut_texts_that_llama_cpp_does_not_know_is_refused(directory):
    tree = json.loads((directory / "tokenizer.json").read_text())
    assert cut_of(tree) == "smaug-bpe"
    assert cut_of(tree | {"model": tree["model"] | {"ignore_merges": True}}) == "llama-bpe"
    tree["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"
    with pytest.raises(UserError, match="no word that is known here"):
        cut_of(tree)


@pytest.mark.parametrize(
    ("out", "kind", "said"), [("m.bin", "f16", "does not end in .gguf"), ("m.gguf", "q3_k", "--type 'q3_k'")]
)
def test_a_wrong_name_or_type_is_refused(directory, tmp_path, capsys, out, kind, said):
    assert main(["gguf", str(directory), str(tmp_path / out), "--type", kind]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_is_there_stays_and_one_that_is_another_model_is_not_published(
    directory, tmp_path, monkeypatch
):
    there = tmp_path / "there.gguf"
    there.write_bytes(b"mine")
    assert "is there" in refusal(run_gguf, str(directory), there, "f16")
    assert there.read_bytes() == b"mine"
    (tmp_path / "mine.Modelfile").write_text("mine")
    assert "mine.Modelfile is there" in refusal(run_gguf, str(directory), tmp_path / "mine.gguf", "f16")
    monkeypatch.setattr("pipeline.publish.gguf.interleaved", lambda weight, heads: weight)
    said = refusal(run_gguf, str(directory), tmp_path / "out.gguf", "f32")
    assert "the GGUF file is not the model" in said and not list(tmp_path.glob("*out*"))


def sentencepiece_at(directory):
    """Its tokenizer as Llama 2's: pieces that begin with a space, and bytes for what has no piece."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    reserved = ["<unk>", "<s>", "</s>", *(f"<0x{number:02X}>" for number in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=reserved, show_progress=False, limit_alphabet=20
    )
    made.train_from_iterator([TEXT] * 9, trainer)
    tree = json.loads(made.to_str())
    tree["added_tokens"] = [token for token in tree["added_tokens"] if token["id"] < 3]
    for path in (*directory.glob("token*"), *directory.glob("chat*")):
        path.unlink()
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    made = Tokenizer.from_str(json.dumps(tree))
    PreTrainedTokenizerFast(tokenizer_object=made, **names).save_pretrained(directory)
    return tree["model"]


def test_a_vocabulary_of_sentencepiece_keeps_its_bytes_and_the_order_of_its_merges(tmp_path):
    """Where llama.cpp is installed, the check within has it read hard texts too."""
    model = sentencepiece_at(model_at(tmp_path / "model"))
    run_gguf(str(tmp_path / "model"), tmp_path / "out.gguf", "f32")
    fields = GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.ggml.model"].contents() == "llama"
    assert fields["tokenizer.ggml.add_space_prefix"].contents() is True
    tokens = fields["tokenizer.ggml.tokens"].contents()
    kinds, scores = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("token_type", "scores"))
    assert [kinds[tokens.index(word)] for word in ("<unk>", "<s>", "<0x41>", "e")] == [2, 3, 6, 1]
    merged = [scores[tokens.index("".join(pair))] for pair in model["merges"]]
    assert merged == sorted(merged, reverse=True) and len(set(merged)) > 10
    # What Ollama is not told, a file without a chat template, stays out of its Modelfile.
    assert "TEMPLATE" not in (tmp_path / "out.Modelfile").read_text()
