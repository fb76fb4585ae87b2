"""Catches conversations that a Mistral model would read as other tokens than its makers' own library gives it.

The five SentencePiece files that mistral-common ships are brought as a recipe brings them. It encodes each part of a
conversation for itself and joins the ids; ours come from the text that a chat template writes.
"""

from pathlib import Path

import pytest

from pipeline.data.chat import ChatEncoder
from pipeline.lm.brought import load_brought
from pipeline.lm.config import Tokenizer
from tokenizer.encode import HARD_STRINGS

# What the library writes between the parts: control tokens alone, or in its first version words and spaces.
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}[SYSTEM_PROMPT]{{ m.content }}[/SYSTEM_PROMPT]"
    "{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
FIRST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
FILES = {
    "tokenizer.model.v1": FIRST,
    "mistral_instruct_tokenizer_240216.model.v2": TURNS,
    "mistral_instruct_tokenizer_240323.model.v3": TURNS,
    "mistral_instruct_tokenizer_241114.model.v7": TURNS,
    "mistral_instruct_tokenizer_241114.model.v7m1": TURNS,
}
PLAIN = [text.strip() for text in HARD_STRINGS[1:] if text.strip()]  # the library trims contents, too


@pytest.mark.parametrize("name", FILES)
def test_conversations_have_the_ids_of_the_makers_own_library(name, tmp_path):
    import mistral_common
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.request import InstructRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    path = Path(mistral_common.__file__).parent / "data" / name
    (tmp_path / "template.jinja").write_text(FILES[name])
    brought, _ = load_brought(Tokenizer(pretrained=str(path), chat_template=str(tmp_path / "template.jinja")))
    encoder = ChatEncoder(brought)
    theirs = MistralTokenizer.from_file(str(path)).instruct_tokenizer
    made = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    for number, text in enumerate(PLAIN):
        other = PLAIN[number - 1]
        turns = [("user", text), ("assistant", other), ("user", "And  then?"), ("assistant", text)]
        if "v7" in name and number % 2:
            turns.insert(0, ("system", "Be brief."))
        messages = [{"role": role, "content": content} for role, content in turns]
        [layout] = encoder.lay_out(messages)
        encoded = encoder.encode([layout])
        request = InstructRequest(messages=[made[role](content=content) for role, content in turns])
        assert encoded.ids.tolist() == theirs.encode_instruct(request).tokens, text
        # The taught tokens are the library's own of the answers, and the end of sequence behind each.
        taught = encoded.ids[encoded.targets > 0].tolist()
        prompts = [theirs.encode_instruct(InstructRequest(messages=request.messages[:-1])).tokens]
        assert encoded.ids.tolist()[: len(prompts[0])] == prompts[0]
        assert taught[-(len(encoded.ids) - len(prompts[0])) :] == encoded.ids.tolist()[len(prompts[0]) :]
        assert taught.count(brought.eos_token_id) == 2
