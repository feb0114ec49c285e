"""Whether a text file is UTF-8, from its first bytes, and which encoding it has where it is not."""

from __future__ import annotations

import codecs
import re
from typing import BinaryIO, cast

from ratchet.errors import DataError
from ratchet.pairs.checks import BROKEN

BOM = codecs.BOM_UTF8
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
# A few bad bytes among ASCII are damage of some rows; more are how the file was written.
_FEW = 3
# Beside a letter, or several together: a lone byte between signs is damage, and no text.
_HIGH = re.compile(rb"(?<=[A-Za-z])[\x80-\xff]+|[\x80-\xff]+(?=[A-Za-z])|[\x80-\xff]{2,}")
_WIDE = (("GB18030", "gb18030"), ("SHIFT_JIS", "shift_jis"), ("EUC-KR", "euc_kr"))

# Once in each process: codecs keeps error handlers by name.
codecs.register_error("ratchet-broken", lambda error: (BROKEN, cast(UnicodeDecodeError, error).end))


def check_encoding(head: bytes, path: str) -> None:
    """Raise DataError where the first bytes of a file are a text in another encoding than UTF-8."""
    name = next((name for mark, name in _MARKS.items() if head.startswith(mark)), None) or _by_nuls(head[:4096])
    if name is None and _is_not_utf8(head):
        name = _of_bytes(head)
    if name is not None:
        raise DataError(
            f"the text is not UTF-8: it looks like {name}",
            where=path,
            fix=f"write it as UTF-8, for example: iconv -f {name} -t UTF-8 FILE > NEW",
            code="data.encoding",
        )


def _by_nuls(head: bytes) -> str | None:
    """Return UTF-16 with its order of bytes where nearly every second byte is NUL, as ASCII has them there."""
    half = len(head) // 2
    for start, name in ((1, "UTF-16LE"), (0, "UTF-16BE")):
        if half > 4 and head[start::2].count(0) > 0.6 * half and head[1 - start :: 2].count(0) < 0.1 * half:
            return name
    return None


def _is_not_utf8(head: bytes) -> bool:
    """Say whether `_FEW` runs of high bytes or more are not UTF-8, and none is."""
    runs = _HIGH.findall(head[: head.rfind(b"\n") + 1] or head[:-4])
    return len(runs) >= _FEW and not any(_decodes(run, "utf-8") for run in runs)


def _of_bytes(head: bytes) -> str:
    runs = _HIGH.findall(head)
    # A letter with an accent stands alone between ASCII letters; scripts of two bytes a character never do.
    if sum(len(run) == 1 for run in runs) > len(runs) / 2:
        return "WINDOWS-1252"
    whole = head[: head.rfind(b"\n") + 1] or head
    return next((name for name, codec in _WIDE if _decodes(whole, codec)), "WINDOWS-1251")


def _decodes(text: bytes, codec: str) -> bool:
    try:
        text.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


class Repaired:
    """A binary stream that is UTF-8 for sure: bytes that were not become BROKEN, and a mark at its head is left out."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._decoder = stream, codecs.getincrementaldecoder("utf-8-sig")("ratchet-broken")

    def read(self, size: int = -1) -> bytes:
        if size == 0:
            return b""
        while block := self._stream.read(size):
            if text := self._decoder.decode(block):
                return text.encode()
        return self._decoder.decode(b"", final=True).encode()
