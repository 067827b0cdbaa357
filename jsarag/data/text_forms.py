"""Text that looks the same and is not: characters that comparisons stumble over, and a plain form.

Nothing is changed here. EM and F1 use SQuAD's normalisation, which knows case, punctuation,
articles and white space and nothing of Unicode's forms; with another, scores could not be compared.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

# Space-like characters other than a plain space, tab and line ends.
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
# Characters without width: zero-width spaces and joiners, word joiner, soft hyphen, stray BOM.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufeff]")
_SIGNS = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class TextForms:
    """How many of some texts hold what comparisons stumble over.

    Attributes:
        texts: how many there are.
        not_nfc: with letters and accents apart, or other forms that NFC composes.
        odd_spaces: with a no-break space or another that is not the plain one.
        invisible: with zero-width characters or soft hyphens.
    """

    texts: int
    not_nfc: int
    odd_spaces: int
    invisible: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> TextForms:
        """Counted over ``texts``."""
        total = not_nfc = spaces = invisible = 0
        for text in texts:
            total += 1
            if text.isascii():
                continue
            not_nfc += not unicodedata.is_normalized("NFC", text)
            spaces += _SPACES.search(text) is not None
            invisible += _INVISIBLE.search(text) is not None
        return cls(total, not_nfc, spaces, invisible)

    def warnings(self, kind: str) -> Iterable[str]:
        """A sentence each on what was found and what it does; ``kind`` is 'passages', say."""
        if self.not_nfc:
            yield (
                f"{self.not_nfc:,} of {self.texts:,} {kind} are not in Unicode's form NFC (an "
                "accent stands apart from its letter): EM and F1 compare characters as they are, "
                "so such a word never equals the same word in one piece. Write the files in one "
                "form (Python: unicodedata.normalize('NFC', text))"
            )
        if self.invisible:
            yield (
                f"{self.invisible:,} of {self.texts:,} {kind} hold characters without width "
                "(zero-width spaces or joiners, soft hyphens): EM and F1 keep them, so a word with "
                "one never equals the word without. Remove them where the script does not need them"
            )
        if self.odd_spaces:
            yield (
                f"{self.odd_spaces:,} of {self.texts:,} {kind} hold no-break or other unusual "
                "spaces: EM and F1 take them for spaces and are not changed by them; a tokeniser "
                "may see other words"
            )


def plain(text: str) -> str:
    """Text without what does not make it another question: case, signs, spaces, Unicode's form."""
    return _SIGNS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
