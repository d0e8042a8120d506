"""Output that any terminal, pipe or file can take: of every encoding, and also when nobody reads any more."""

import codecs
import contextlib
import os
import sys
import textwrap
import unicodedata
from collections.abc import Iterator
from typing import Any

LINE = 96
"""Letters of a line on a notebook's page of 1,280 pixels, which breaks longer lines within words."""

SPELLED = {
    **{"−": "-", "–": "-", "·": "*", "×": "x", "→": "->", "…": "...", "±": "+/-", "≤": "<=", "≥": ">=", "‖": "||"},
    **{"√": "sqrt", "α": "alpha", "β": "beta", "ε": "epsilon", "κ": "kappa", "λ": "lambda", "σ": "sigma", "τ": "tau"},
}
"""Signs that ASCII lacks, as they are typed without them."""


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Spell what an encoding lacks: λ as lambda, é as e, other characters by their number."""
    assert isinstance(error, UnicodeEncodeError)
    letters = []
    for letter in error.object[error.start : error.end]:
        plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore")
        letters.append(SPELLED.get(letter) or (plain or letter.encode("ascii", "backslashreplace")).decode())
    return "".join(letters), error.end


codecs.register_error("labkit.spelled", _spelled)


def wrapped(text: str, indent: str = "") -> str:
    """A text in lines that a notebook's page leaves whole; lines after the first are indented."""
    return textwrap.fill(text, LINE, subsequent_indent=indent, break_long_words=False)


class Output:
    """A text stream that fails neither at a letter nor because its reader has gone, as ``head`` does."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._lasting():
            self._stream.write(text.encode(self._encoding, "labkit.spelled").decode(self._encoding))
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        """Send everything to nowhere after a failure: a closed pipe or terminal, a full disk."""
        try:
            yield
        except OSError:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """Inside, what is printed reaches standard output and errors as far as these can take it."""
    closed = open(os.devnull, "w") if None in (sys.stdout, sys.stderr) else None  # noqa: SIM115 (as standard streams)
    out, err = Output(sys.stdout or closed), Output(sys.stderr or closed)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield
        finally:
            out.flush()
            err.flush()
