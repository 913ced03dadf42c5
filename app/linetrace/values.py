"""Values of variables as short texts, without running the program's code and without its secrets.

Only values of exactly a built-in type are shown: `repr` of anything else is code of the program, which may change
something or take long. Names that look like secrets are masked, also as keys and in pairs such as HTTP headers, and so
are texts that look like passwords, tokens or keys.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from itertools import islice
from typing import Any

from linetrace.limits import LONGEST_TEXT

MASK = "***"
CUT = "…"
_DEEPEST = 3
_MOST_ITEMS = 10
_LARGEST_BITS = 512
_LONGEST_MASKED = 10 * LONGEST_TEXT

_SECRET_NAME = re.compile(
    r"password|passwd|passphrase|passcode|secret|token|credential|authori[sz]ation|cookie|csrf"
    r"|session_?(id|key)|private|signature|api_?key|(^|[^a-z])(auth|pass|pin|otp|pwd|jwt|salt|key|dsn|conninfo)($|[^a-z])",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?P<before>://[^/@\s:]*:)[^/@\s]+(?=@)"  # the password of a URL
    r"|(?P<scheme>\b(?:Bearer|Basic|Digest)\s+)[A-Za-z0-9+/=._~-]{6,}"
    r"|(?P<assigned>\b(?:password|passwd|secret|token|api_?key)\s*[=:]\s*)(?!\*\*\*)[^\s&;,'\"]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*"
    # What is long and without words: keys, tokens and sessions are random letters of both cases (RFC 4648, section 5).
    r"|(?-i:(?<![\w-])(?=[\w-]{24})(?=[\w-]*[a-z])(?=[\w-]*[A-Z])[\w-]+)",
    re.IGNORECASE | re.DOTALL,
)
_NAME_OF_TYPE: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_MODULE_OF_TYPE: Callable[[type], object] = type.__dict__["__module__"].__get__


def type_name(kind: type) -> str:
    """`module.Class`, read without a metaclass having a say."""
    module = _MODULE_OF_TYPE(kind)
    name = _NAME_OF_TYPE(kind)
    return name if module == "builtins" or not isinstance(module, str) else f"{module}.{name}"


def any_of(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Whether a text matches one of the patterns, as of fnmatch."""
    alternatives = [translate(pattern) for pattern in patterns]
    if not alternatives:
        return lambda _text: False
    match = re.compile("|".join(alternatives)).match
    return lambda text: match(text) is not None


class Shower:
    """Makes texts of values. `allow_repr` and `secrets` are patterns, see `limits.Options`."""

    def __init__(self, allow_repr: Iterable[str] = (), secrets: Iterable[str] = ()) -> None:
        self._allowed = any_of(allow_repr)
        self._further_secret = any_of(secrets)

    def is_secret(self, name: object) -> bool:
        """Whether values under this name are masked. Names that are not texts are none."""
        if type(name) is bytes:
            name = name[:100].decode("latin-1")
        if type(name) is not str:
            return False
        return _SECRET_NAME.search(name) is not None or self._further_secret(name)

    def named(self, name: str, value: object) -> str:
        """The value of a variable as text: at most LONGEST_TEXT characters, and the mask if the name is a secret's."""
        return MASK if self.is_secret(name) else self.show(value)

    def show(self, value: object) -> str:
        """The value as text, at most LONGEST_TEXT characters. Never raises: a failing `repr` is said."""
        text = self._show(value, 0)
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + CUT

    def exception(self, error: BaseException) -> str:
        """`Class(arguments)` of an exception, without its `__str__`."""
        arguments = BaseException.args.__get__(error)  # type: ignore[attr-defined]  # a getset descriptor
        text = f"{type_name(type(error))}({', '.join(self._show(each, 1) for each in arguments[:_MOST_ITEMS])})"
        return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + CUT

    def arguments(self, names: Iterable[str], values: Mapping[str, Any]) -> str:
        """`a=1, b='x'` for the arguments of a call, those that have no value yet left out."""
        return ", ".join(f"{name}={self.named(name, values[name])}" for name in names if name in values)

    def _show(self, value: object, depth: int) -> str:
        kind = type(value)
        show = _SIMPLE.get(kind)
        try:
            if show is not None:
                return show(value)
            if kind in _BRACKETS:
                return self._container(value, kind, depth)
            name = type_name(kind)
            return _masked(repr(value)) if self._allowed(name) else f"<{name}>"
        except Exception as error:  # noqa: BLE001  # of an allowed repr, or a container that another thread changes
            return f"<{type_name(kind)}: {type_name(type(error))}>"

    def _container(self, value: Any, kind: type, depth: int) -> str:
        start, end = _BRACKETS[kind]
        if kind in (set, frozenset) and not value:
            return f"{_NAME_OF_TYPE(kind)}()"
        if depth >= _DEEPEST and value:
            return f"{start}{CUT}{end}"
        if kind is dict:
            shown = [
                f"{self._show(key, depth + 1)}: {MASK if self.is_secret(key) else self._show(each, depth + 1)}"
                for key, each in list(islice(value.items(), _MOST_ITEMS))
            ]
        elif kind in (tuple, list) and len(value) == 2 and self.is_secret(value[0]):
            shown = [self._show(value[0], depth + 1), MASK]
        else:
            shown = [self._show(each, depth + 1) for each in list(islice(value, _MOST_ITEMS))]
        if len(value) > _MOST_ITEMS:
            shown.append(f"{CUT} {len(value):,} items")
        elif kind is tuple and len(value) == 1:
            shown[0] += ","
        return f"{start}{', '.join(shown)}{end}"


_BRACKETS: dict[type, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("frozenset({", "})"),
}


def _quoted(text: Any) -> str:
    # Masked before it is cut: the cut could take away what shows that the text before it is a secret.
    shown = repr(_masked(text[:_LONGEST_MASKED])[:LONGEST_TEXT])
    return f"{shown}{CUT} ({len(text):,} characters)" if len(text) > LONGEST_TEXT else shown


def _bytes(value: Any) -> str:
    shown = repr(_masked(value[:_LONGEST_MASKED].decode("latin-1"))[:LONGEST_TEXT].encode("latin-1"))
    return f"{shown}{CUT} ({len(value):,} bytes)" if len(value) > LONGEST_TEXT else shown


def _whole_number(value: Any) -> str:
    # Python refuses to write whole numbers of thousands of digits, and takes long for those that it writes.
    return repr(value) if value.bit_length() <= _LARGEST_BITS else f"<int of {value.bit_length()} bits>"


def _masked(text: str) -> str:
    """The text without passwords of URLs, credentials of headers and private keys."""

    def hide(found: re.Match[str]) -> str:
        return (found["before"] or found["scheme"] or found["assigned"] or "") + MASK

    return _SECRET_TEXT.sub(hide, text)


_SIMPLE: dict[type, Callable[[object], str]] = {
    **dict.fromkeys((float, complex, bool, type(None), type(...), type(NotImplemented), range), repr),
    str: _quoted,
    int: _whole_number,
    bytes: _bytes,
    bytearray: _bytes,
}
