"""The control tokens of every tokenizer trained here, and the chat template that is written with them."""

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>")
"""Control tokens in the order of their ids, 0 to 6."""

BOS, EOS, PAD = SPECIAL_TOKENS[:3]

CHAT_TEMPLATE = """\
{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ("user", "assistant", "system") %}
        {{- raise_exception("role " + message.role + ": expected user, assistant or system") }}
    {%- endif %}
    {{- "<|" + message.role + "|>\\n" }}
    {%- if message.role == "assistant" %}
        {%- generation %}{{- message.content + "<|end|>" }}{% endgeneration %}
    {%- else %}
        {{- message.content + "<|end|>" }}
    {%- endif %}
    {{- "\\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|assistant|>\\n" }}{%- endif %}"""
"""Jinja: bos, then `<|role|>\\n{content}<|end|>\\n` a message. The generation block marks what an assistant mask
covers: the answer and its stop token."""
