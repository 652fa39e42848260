"""Names as people mean them: equality whatever case, spacing and underscores; words and whole-word matches."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"\w+")
_ARTICLES = frozenset({"a", "an", "the"})
_SILENT_H = re.compile(r"(?:hour|honest|heir|honou?r)", re.IGNORECASE)
_LIKE_YOU = re.compile(r"(?:uni(?!n)|use|usu|eu|one\b|once\b|ut[ei])", re.IGNORECASE)


def normalised(name: str) -> str:
    """Casefolded, compatibility forms unified, underscores as spaces, spaces collapsed."""
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split())


def spoken(name: str) -> str:
    """A name as a text says it: underscores as spaces, spaces collapsed, case kept."""
    return " ".join(name.replace("_", " ").split())


def article_for(word: str) -> str:
    """ "an" before a vowel sound, else "a", by spelling."""
    if _SILENT_H.match(word):
        return "an"
    return "an" if word[:1].lower() in set("aeiou") and not _LIKE_YOU.match(word) else "a"


def words(text: str) -> list[str]:
    """The words of a text, normalised; punctuation separates them."""
    return _WORD.findall(normalised(text))


def mentions(text: str, name: str) -> bool:
    """Whether ``name`` stands in ``text`` as whole words, in order, one of the last word's plurals included.

    Leading articles of the name do not count. Scripts that write no spaces are searched as text.
    """
    wanted = words(name)
    while len(wanted) > 1 and wanted[0] in _ARTICLES:
        wanted = wanted[1:]
    if not wanted:
        return False
    if not name.isascii() and " ".join(wanted) in normalised(text):
        return True
    found = words(text)
    last = _forms(wanted[-1])
    return any(
        found[i : i + len(wanted) - 1] == wanted[:-1] and found[i + len(wanted) - 1] in last
        for i in range(len(found) - len(wanted) + 1)
    )


def _forms(word: str) -> frozenset[str]:
    """A word with its regular English plurals and singulars."""
    forms = {word, word + "s", word + "es"}
    if word.endswith("y"):
        forms.add(word[:-1] + "ies")
    if word.endswith("s") and len(word) > 3:
        forms.add(word[:-1])
    return frozenset(forms)


def comma_items(text: str) -> list[str]:
    """Parts of a comma list, stripped, blank ones left out."""
    return [part for part in (piece.strip() for piece in text.split(",")) if part]
