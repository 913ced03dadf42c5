"""The page of a recorded trace: one HTML file that needs nothing else, and works from a disk and in an e-mail."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from pathlib import Path
from string import Template
from typing import Any

from ops.trace.columns import columns
from ops.trace.recording import Recording, printable

_PARTS = Path(__file__).with_name("html")
_STYLES = ("page.css", "parts.css", "narrow.css")
_SCRIPTS = ("data", "python", "rows", "find", "source", "timeline", "overview", "lists", "step", "page")


def page(recording: Recording) -> str:
    """The HTML. All of the trace is data in it: nothing of it is markup, and only the page's own script may run."""
    parts = "".join((_PARTS / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    script = f'"use strict";\n{{\n{parts}}}\n'
    about = recording.about
    return Template((_PARTS / "page.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(printable(f"Trace: {about['what']}, {about['environment']}, {about['began'][:16]}")),
        style="".join((_PARTS / name).read_text(encoding="utf-8") for name in _STYLES),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        data=_embedded(columns(recording)),
    )


def _embedded(values: dict[str, Any]) -> str:
    """JSON that cannot end the element that it stands in: ASCII without `<`, `>` and `&`.

    Lone surrogates stay escapes, which JSON.parse takes. See "Restrictions for contents of script elements",
    https://html.spec.whatwg.org/multipage/scripting.html.
    """
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
