"""What a reply's status means: an answer, a wait, or the end."""

from __future__ import annotations

import http
import json
from typing import Any

from ratchet.serving.connection import HttpReply
from ratchet.serving.requests import Request, request_words
from ratchet.serving.retry import Trouble

# Besides every 5xx. 409 is what some gateways say while a model is being loaded.
_TEMPORARY = {408, 409, 425, 429}


def check_status(reply: HttpReply, request: Request, *, model: str, key_variable: str | None) -> None:
    """Return where the reply holds an answer. Raises Trouble, with `again` as the status asks for."""
    status = reply.status
    if 200 <= status < 300:
        return
    what = f"{_name(status)}: {error_text(reply.body)}"
    if status in _TEMPORARY or status >= 500:
        fix = "lower concurrency, or wait" if status == 429 else "look at the server's log, or wait; then run again"
        raise Trouble(what, fix=fix, retry_after=reply.retry_after, shared=status == 429)
    if 300 <= status < 400:
        what = f"{_name(status)}: redirects to {reply.location or 'nowhere'}"
        fix = "redirects are not followed: if you trust that place, give it as base_url"
    elif status in {401, 403}:
        fix = (
            f"check that the key in the environment variable {key_variable} is this server's and may use {model!r}"
            if key_variable
            else "the server wants a key: put it into an environment variable and name that as key_variable"
        )
    elif status == 404:
        fix = f"check base_url (it ends before /chat/completions, mostly in /v1) and that the server has {model!r}"
    else:
        what = f"{_name(status)} for {request_words(request)}: {error_text(reply.body)}"
        fix = f"check that the request suits {model!r}: its length, token ids, sampling"
    raise Trouble(what, fix=fix, again=False, shared=status < 400 or status in {401, 403, 404})


def error_text(body: bytes) -> str:
    """Return a server's error message: the one in its JSON, or else the text as it is."""
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace") or "it says no more"
    for name in ("error", "message", "detail"):
        if isinstance(fields, dict) and fields.get(name):
            fields = fields[name]
    return fields if isinstance(fields, str) else json.dumps(fields)


def _name(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
