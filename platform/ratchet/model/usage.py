"""How a published model is used: the line that loads it, for terminals, pages and model cards."""

from __future__ import annotations

import json


def load_line(folder: str, *, trust_remote_code: bool = False) -> str:
    """Return the Python call that loads the model in `folder` for texts; transformers has the function."""
    trust = ", trust_remote_code=True" if trust_remote_code else ""
    return f'transformers.pipeline("text-generation", model={json.dumps(folder, ensure_ascii=False)}{trust})'


def card_usage(*, trust_remote_code: bool = False) -> str:
    """Return the part of a model card that shows how to chat with the model, whose folder may move."""
    line = load_line("path/to/this/folder", trust_remote_code=trust_remote_code)
    asked = 'chat([{"role": "user", "content": "Hello"}], max_new_tokens=128)'
    return (
        f"\n## How to use it\n\n```python\nimport transformers\n\nchat = {line}\n"
        f'print({asked}[0]["generated_text"][-1]["content"])\n```\n'
    )
