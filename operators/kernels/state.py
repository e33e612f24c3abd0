"""The stored form of a key's row: only what is used, in sections that say what they are.

A state is 64-bit words: magic (entity << 32 | layout), checksum (sum of word j times 2j + 1), then sections,
each one word `id << 32 | words` and its words. A section that the present declarations do not know is
dropped; one that the state does not have begins empty; a ring stored with more entries than it may hold now
keeps its latest.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.kernels import kernel
from operators.kernels import borrowed, part
from operators.kernels import tables as T
from operators.kernels.folds import fold_zero
from operators.kernels.tables import Bits, Floats, Table

FOREIGN, DAMAGED = 1, 2


@part
def section_words(s: Floats, b: int, g: Any, rings: Table) -> int:
    """How many words of a section are worth storing."""
    ring = rings[g.ring]
    n = int(g.words)
    if g.kind == T.WORDS:
        n = n if s[b + g.offset] != g.fill else 0
    elif g.kind == T.PANES:
        n = n if s[b + ring.base] > s[b] - g.fill else 0
    else:
        n = int(s[b + ring.head + 1])
        if g.kind == T.COLUMN and (n > 0 or s[b + ring.base] > -np.inf):
            n += 1
    return n


@kernel
def pack(s: Floats, u: int, width: int, rings: Table, sections: Table, magic: np.uint64) -> tuple[Bits, Any]:
    """Stored form of `u` rows of `width`: words one after the other, and bytes of each, i32[u]."""
    s, rings, sections = borrowed(s), borrowed(rings), borrowed(sections)
    bits = s.view(np.uint64)
    lengths = np.empty(u, np.int32)
    total = 0
    for i in range(u):
        words = 2
        for k in range(sections.shape[0]):
            n = section_words(s, i * width, sections[k], rings)
            words += n + 1 if n > 0 else 0
        lengths[i] = 8 * words
        total += words
    out = np.empty(total, np.uint64)
    p = 0
    for i in range(u):
        begin = p
        p += 2
        for k in range(sections.shape[0]):
            g = sections[k]
            n = section_words(s, i * width, g, rings)
            if n > 0:
                out[p] = np.uint64((g.id << 32) | n)
                o = i * width + g.offset
                extra = int(g.kind == T.COLUMN)
                if extra:
                    out[p + 1] = bits[o]
                if g.kind <= T.COLUMN:
                    o += 1 + int(s[i * width + rings[g.ring].head])
                copy(out, p + 1 + extra, bits, o, n - extra)
                p += 1 + n
        out[begin] = magic
        out[begin + 1] = checksum(out, begin + 2, p)
    return out, lengths


@part
def checksum(words: Bits, begin: int, end: int) -> np.uint64:
    """Sum of words[begin:end], each times its odd place: no change of one word keeps it."""
    total = np.uint64(end - begin)
    first = np.uint64(begin)
    for j in range(np.uint64(end - begin)):
        total += words[first + j] * (np.uint64(2) * j + np.uint64(1))
    return total


@part
def copy(to: NDArray[Any], o: int, source: NDArray[Any], p: int, n: int) -> None:
    """to[o:o + n] = source[p:p + n]; unsigned indices need no check for being negative, slices count references."""
    i, k = np.uint64(o), np.uint64(p)
    for j in range(np.uint64(n)):
        to[i + j] = source[k + j]


@part
def size(word: np.uint64) -> int:
    """Words of the section that begins with `word`."""
    return int(np.int64(word & np.uint64(0xFFFFFFFF)))


@part
def find(words: Bits, begin: int, end: int, p: int, identity: int, known: bool) -> int:
    """Where section `identity` begins in words[begin:end]: at `p` or, if the layout is `known`, nowhere.

    -1: nowhere; -2: these are no sections.
    """
    q = p
    if not known:
        q = begin
        while q < end and np.int64(words[q] >> np.uint64(32)) != identity:
            q += 1 + size(words[q])
        q = q if q <= end else -2
    if q >= 0 and (q == end or np.int64(words[q] >> np.uint64(32)) != identity):
        q = -1
    if q >= 0 and q + 1 + size(words[q]) > end:
        q = -2
    return q


@part
def load_words(s: Floats, bits: Bits, b: int, g: Any, rings: Table, words: Bits, q: int, n: int) -> bool:
    """Fill block or panes `g` of the row at `s[b:]` from the n words after `q` (-1: not stored); False: no fit."""
    o = b + g.offset
    fits = n == g.words or q == -1
    if q >= 0 and fits:
        copy(bits, o, words, q + 1, n)
    elif g.kind == T.WORDS:
        for j in range(g.words):
            s[o + j] = g.fill
    elif s[b + rings[g.ring].base] > s[b] - g.fill:
        fold_zero(s, o, g.words)
    return fits


@part
def load_column(s: Floats, bits: Bits, b: int, g: Any, rings: Table, words: Bits, q: int, n: int) -> bool:
    """Fill a ring's column `g` of the row at `s[b:]`, as `load_words`; the first column decides how many."""
    o = b + g.offset
    ring = rings[g.ring]
    extra = int(g.kind == T.COLUMN)
    found = max(n - extra, 0)
    skip = max(found - ring.cap, 0)
    if g.column == 0:
        s[b + ring.head] = 0.0
        s[b + ring.head + 1] = found - skip
        s[o] = -np.inf
    count = int(s[b + ring.head + 1])
    fits = q == -1 or found - skip == count
    if q >= 0 and fits:
        if extra:
            bits[o] = words[q + 1 + skip]
        copy(bits, o + 1, words, q + 1 + extra + skip, count)
    elif g.column > 0:
        for j in range(1 + count):
            s[o + j] = np.nan
    return fits


@part
def refused(words: Bits, begin: int, end: int, magic: np.uint64) -> int:
    """Why words[begin:end] are no state of this entity; 0: they are, or there are none."""
    reason = 0
    if end > words.shape[0] or (end > begin and end < begin + 2) or end < begin:
        reason = DAMAGED
    elif end > begin:
        if words[begin] >> np.uint64(32) != magic >> np.uint64(32):
            reason = FOREIGN
        elif words[begin + 1] != checksum(words, begin + 2, end):
            reason = DAMAGED
    return reason


@kernel
def unpack(
    words: Bits,
    lengths: NDArray[np.int32],
    s: Floats,
    width: int,
    rings: Table,
    sections: Table,
    magic: np.uint64,
) -> tuple[int, int]:
    """Fill a row of `width` for each stored state (length 0: an empty row); (-1, 0), or a bad one and why."""
    words, s, rings, sections = borrowed(words), borrowed(s), borrowed(rings), borrowed(sections)
    bits = s.view(np.uint64)
    bad, why = -1, 0
    begin = 0
    for i in range(lengths.shape[0]):
        end = begin + (lengths[i] >> 3)
        reason = refused(words, begin, end, magic)
        known = reason > 0 or end == begin or words[begin] == magic
        last = begin if reason > 0 else end
        first = min(begin + 2, last)
        p = first
        for k in range(sections.shape[0]):
            g = sections[k]
            q = find(words, first, last, p, g.id, known)
            n = 0
            if q >= 0:
                n = size(words[q])
                p = q + 1 + n
            if g.kind <= T.COLUMN:
                fits = load_column(s, bits, i * width, g, rings, words, q, n)
            else:
                fits = load_words(s, bits, i * width, g, rings, words, q, n)
            if not fits:
                reason = DAMAGED
        if known and p != last:
            reason = DAMAGED
        if reason > 0 and bad < 0:
            bad, why = i, reason
        begin = max(end, begin)
    return bad, why
