"""Looks at the texts of pairs: marks of chat templates, faults of encoding, and the scripts they are written in."""

from __future__ import annotations

import collections
import re
import unicodedata
from collections.abc import Iterator

from ratchet.documents.data_report import DataAnalysis
from ratchet.pairs.counting import PlacedCount, found_of, of_all
from ratchet.pairs.pair import PreferencePair

# Looked for one by one, as a search for a plain text is many times as fast as a pattern. Most texts hold none.
_HEADS: tuple[str, ...] = (
    "<|",
    "<｜",
    "INST]",
    "<<SYS",
    "### ",
    "<s>",
    "</s>",
    "_of_turn>",
    "OTS]",
    "[PAD]",
    "TOOL_",
    "uman:",
    "sistant:",
)
_HEADS += ("<image>", "USER:", "SSISTANT:", "os>", "pad>", "unk>", "tool_call>", "tool_response>", "[SYSTEM_PROMPT]")
_MARKS = re.compile(
    r"<[|｜]\w[\w▁ -]{0,38}\w[|｜]>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS)\]|\[TOOL_CALLS\]|<</?SYS>>"
    r"|^### ?(?:Response|Instruction|Input|Human|Assistant|User|System) ?:|</?s>|<(?:start|end)_of_turn>|\[PAD\]"
    r"|<(?:bos|eos|pad|unk)>|</?tool_(?:call|response)>|<image>|^(?:Human|Assistant|USER|ASSISTANT) ?:",
    re.MULTILINE,
)
_NAMES = 40
"""Names that are counted one by one; the rest counts as one."""
_MOJIBAKE = re.compile("Ã[\x80-\xbf¡-¿ƒ„…†‡ˆ‰Š‹Œ]|Â[\xa0-\xbf]|â€[™œ\x9d“”–—˜¦¢\x93\x94\x99\x9c]|ï»¿|ðŸ")
_HIDDEN = re.compile("[\u200b\u2060\ufeff\u00ad\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_ENTITY = re.compile(r"&(?:amp|lt|gt|quot|nbsp|apos|#\d{2,5}|#x[0-9a-fA-F]{2,5});")
_VISIBLE = 600
"""Characters of a text from which its script and language are read."""

_FUNCTION_WORDS = {
    "English": "the and of to is that with for you are this",
    "German": "der die das und ist nicht ein eine zu mit auf",
    "French": "le la les et est une des pour que dans vous",
    "Spanish": "el los las y es una por para con que del",
    "Italian": "il gli di e che una per con sono della nel",
    "Portuguese": "o os uma não para com que do da em você",
    "Dutch": "het een en van niet dat op zijn voor met je",
    "Polish": "nie jest się na że do jak dla przez oraz są",
    "Turkish": "bir ve bu için ile olarak daha çok gibi ne da",
    "Indonesian": "yang dan di untuk dengan ini adalah dari tidak pada dalam",
    "Vietnamese": "và của là có không được cho các một trong những",
}
_LANGUAGES_OF = collections.defaultdict[str, list[str]](list)
for _language, _words in _FUNCTION_WORDS.items():
    for _word in _words.split():
        _LANGUAGES_OF[_word].append(_language)


class MarkLook:
    """Marks of chat templates and special tokens inside texts, by name: roles, ends, tools, padding.

    A model takes such a mark for the real one where its tokenizer has it, and learns to write it where it stands in an
    answer. A heading such as `### Response:` counts at the beginning of a line alone.
    """

    def __init__(self) -> None:
        self._pairs, self._found, self._answers = 0, PlacedCount(), 0
        self._names = collections.Counter[str]()

    def add(self, pair: PreferencePair) -> None:
        self._pairs += 1
        asked = [turn.text for turn in pair.prompt]
        answered = [pair.chosen.text] if pair.rejected is None else [pair.chosen.text, pair.rejected.text]
        every = "\n".join((*asked, *answered))
        if not any(head in every for head in _HEADS):
            return
        answers = set[str]().union(*map(_marks, answered))
        names = answers.union(*map(_marks, asked))
        if not names:
            return
        self._found.add(pair, " ".join(sorted(names)))
        self._answers += bool(answers)
        for name in names:
            self._names[name if name in self._names or len(self._names) < _NAMES else "others"] += 1

    def analyses(self) -> Iterator[DataAnalysis]:
        count = self._found.count
        most = ", ".join(f"{name} {number:,}" for name, number in self._names.most_common(5))
        yield DataAnalysis(
            code="template-marks",
            gravity="warns" if count else "notes",
            count=count,
            of=self._pairs,
            counted="pairs",
            says=f"{of_all(count, self._pairs)} hold marks of chat templates or special tokens in their texts"
            + (f" ({self._answers:,} in an answer): {most}" if count else ""),
            do="take them out of the texts: the template of the model writes its own" if count else "",
            figures=dict(self._names.most_common()),
            places=self._found.places,
        )


def _marks(text: str) -> set[str]:
    return {_name(one) for one in _MARKS.findall(text)}


def _name(mark: str) -> str:
    return " ".join(mark.split())


class EncodingLook:
    """Faults that a file's way left in its texts, by name.

    Mojibake (UTF-8 read as Latin-1 or cp1252), replacement characters, hidden characters (zero width, soft hyphen,
    direction), texts of hidden characters alone, control characters, HTML entities, a line end written out as two
    characters in a text of one line, and decomposed letters (not NFC). Only what is found is named.
    """

    def __init__(self) -> None:
        self._pairs = 0
        self._found: dict[str, PlacedCount] = {name: PlacedCount() for name in _FAULTS}

    def add(self, pair: PreferencePair) -> None:
        self._pairs += 1
        texts = [turn.text for turn in pair.prompt] + [pair.chosen.text]
        texts += [] if pair.rejected is None else [pair.rejected.text]
        seen = dict[str, str]()
        for text in texts:
            for name in encoding_faults(text):
                seen.setdefault(name, text)
        for name, text in seen.items():
            self._found[name].add(pair, text)

    def analyses(self) -> Iterator[DataAnalysis]:
        yield from found_of(
            self._pairs, ((code, self._found[code], f"hold {what}", do) for code, (what, do) in _FAULTS.items())
        )


_FAULTS = {
    "mojibake": ("UTF-8 that was read as another encoding (`Ã¼`, `â€™`)", "write the file again from its source"),
    "replacement-characters": ("replacement characters (U+FFFD): what stood there is lost", "mend or leave them out"),
    "hidden-only": ("a text of hidden characters alone", "leave them out: a reader sees nothing there"),
    "hidden-characters": ("hidden characters (zero width, soft hyphens, direction)", ""),
    "control-characters": ("control characters", "take them out"),
    "entities": ("HTML entities such as `&amp;`", ""),
    "escapes": ("`\\n` as two characters, in texts of one line", "write real line ends"),
    "decomposed": ("letters and their accents apart (not NFC)", ""),
}


def encoding_faults(text: str) -> list[str]:
    """Return the codes of what is wrong with a text's encoding, as `EncodingLook` defines them."""
    found = []
    if not text.isascii():
        found += ["mojibake"] * bool(_MOJIBAKE.search(text))
        found += ["replacement-characters"] * ("\ufffd" in text)
        if _HIDDEN.search(text):
            found.append("hidden-only" if not _HIDDEN.sub("", text).strip() else "hidden-characters")
        found += ["decomposed"] * (not unicodedata.is_normalized("NFC", text))
    found += ["control-characters"] * bool(_CONTROL.search(text))
    found += ["entities"] * ("&" in text and bool(_ENTITY.search(text)))
    found += ["escapes"] * ("\\n" in text and "\n" not in text)
    return found


class ScriptLook:
    """The script of most letters, and for Latin the language whose function words are most, of prompt and chosen.

    Read from the first 600 characters. It is a hint, and no more: languages that are not listed count as Latin.
    """

    def __init__(self) -> None:
        self._pairs, self._other = 0, PlacedCount()
        self._names = collections.Counter[str]()

    def add(self, pair: PreferencePair) -> None:
        self._pairs += 1
        asked = next((turn.text for turn in reversed(pair.prompt) if turn.role == "user"), "")
        name, answered = language_of(asked), language_of(pair.chosen.text)
        self._names[answered] += 1
        if name.split(",")[0] != answered.split(",")[0] and "none" not in {name, answered}:
            self._other.add(pair, pair.chosen.text)

    def analyses(self) -> Iterator[DataAnalysis]:
        most = ", ".join(f"{_spoken(name)} {count / self._pairs:.1%}" for name, count in self._names.most_common(6))
        yield DataAnalysis(
            code="languages",
            gravity="notes",
            count=self._other.count,
            of=self._pairs,
            counted="pairs",
            says=f"chosen answers are {most or 'none'}; "
            f"{of_all(self._other.count, self._pairs)} answer in another script than the prompt's",
            figures=dict(self._names.most_common()),
            places=self._other.places,
        )


def _spoken(name: str) -> str:
    """Return the name of a language where it is known, else of the script, in words."""
    script, _, language = name.partition(", ")
    return language or {"Latin": "in Latin letters", "none": "without letters"}.get(script, script)


def language_of(text: str) -> str:
    """Return the script of most of a text's letters, such as `Cyrillic`, and for Latin `Latin, German`.

    `none` where there is no letter.
    """
    head = text[:_VISIBLE]
    if head.isascii():
        script = "Latin" if any(map(str.isalpha, head)) else "none"
    else:
        scripts = collections.Counter(_script(letter) for letter in head if letter.isalpha())
        # Japanese is written in three: any kana says that the Han beside it is Japanese.
        script = "Japanese" if scripts["Japanese"] else next((name for name, _ in scripts.most_common(1)), "none")
    if script != "Latin":
        return script
    votes = collections.Counter(one for word in head.lower().split() for one in _LANGUAGES_OF.get(word, ()))
    best = votes.most_common(2)
    if best and best[0][1] > 1 and (len(best) == 1 or best[0][1] > best[1][1]):
        return f"Latin, {best[0][0]}"
    return "Latin"


_SCRIPTS: dict[str, str] = {}


def _script(letter: str) -> str:
    if letter not in _SCRIPTS:
        first = unicodedata.name(letter, "other").split()[0].split("-")[0].capitalize()
        named = {"Cjk": "Han", "Hiragana": "Japanese", "Katakana": "Japanese", "Fullwidth": "Latin"}
        _SCRIPTS[letter] = named.get(first, first)
    return _SCRIPTS[letter]
