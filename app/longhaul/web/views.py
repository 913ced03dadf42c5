"""An upload in words for people, the same for the pages (templates) and their live updates (JSON).

Texts about errors say what happened, what was kept and what to do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from longhaul.settings import POLICY
from longhaul.uploads.model import MISMATCH, State, Upload

UNITS = ("bytes", "KB", "MB", "GB", "TB")
# An upload without a receiver is shown as interrupted after this time: by then a client has reconnected.
QUIET_SECONDS = 15
# The same for an upload that has a receiver. Even the slowest client's bytes are stored three times in this time.
# A host that lost its power leaves a receiver in the row.
SILENT_SECONDS = 3 * POLICY["policy_piece_seconds"]

STATE_TEXTS = {
    State.RECEIVING: "Uploading",
    State.QUEUED: "Waiting for processing",
    State.PROCESSING: "Processing",
    State.DONE: "Done",
    State.FAILED: "Processing failed",
    State.TERMINATED: "Deleted",
    State.EXPIRED: "Expired",
}

CLOSABLE = "The upload is complete and safe: you may close this page."


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a page shows of an upload. Percentages are 0 to 100; `process_percent` is None before there is any.

    The frontend's `view.ts` lists the same fields.
    """

    id: str
    state: str
    active: bool
    """Whether it will change by itself."""
    gone: bool
    filename: str
    page_url: str
    content_url: str
    """Path of the content; empty while it is incomplete or when it is gone."""
    size_text: str
    created: str
    created_text: str
    state_text: str
    hint: str
    upload_percent: float
    upload_text: str
    process_percent: float | None
    process_text: str
    mismatched: bool
    """Whether the content is not what was sent."""
    can_retry: bool
    can_remove: bool

    def as_json(self) -> dict[str, Any]:
        """For the live updates."""
        return asdict(self)


def view(upload: Upload, now: datetime) -> View:
    """The words for an upload; `now` decides whether a silence is an interruption."""
    interrupted = is_interrupted(upload, now)
    percent = 100.0 if upload.size == 0 else 100 * upload.offset / upload.size
    process_percent, process_text = _processing(upload)
    return View(
        id=upload.id,
        state="interrupted" if interrupted else upload.state.value,
        active=upload.state in (State.RECEIVING, State.QUEUED, State.PROCESSING) and not interrupted,
        gone=upload.state is State.TERMINATED,
        filename=display_name(upload),
        page_url=f"/uploads/{upload.id}",
        content_url=f"/api/uploads/{upload.id}/content" if upload.has_content else "",
        size_text=size_text(upload.size),
        created=upload.created_at.isoformat(),
        created_text=time_text(upload.created_at),
        state_text=_state_text(upload, interrupted),
        hint=_hint(upload, interrupted),
        upload_percent=round(percent, 1),
        upload_text=_upload_text(upload, percent),
        process_percent=process_percent,
        process_text=process_text,
        mismatched=upload.is_mismatched,
        can_retry=upload.state is State.FAILED and not upload.is_mismatched,
        can_remove=upload.state is not State.TERMINATED,
    )


def _state_text(upload: Upload, interrupted: bool) -> str:
    if interrupted:
        return "Interrupted"
    return "Not what was sent" if upload.is_mismatched else STATE_TEXTS[upload.state]


def is_interrupted(upload: Upload, now: datetime) -> bool:
    """Whether nothing has arrived of an unfinished upload for so long that it is probably not being sent."""
    patience = timedelta(seconds=QUIET_SECONDS if upload.receiver is None else SILENT_SECONDS)
    return upload.state is State.RECEIVING and now - upload.updated_at > patience


def display_name(upload: Upload) -> str:
    """The file's name, or a name made from the id."""
    return upload.filename or f"upload {upload.id}"


def _upload_text(upload: Upload, percent: float) -> str:
    if upload.completed_at is not None:
        return f"complete, {size_text(upload.size)}"
    return f"{int(percent)} % · {size_text(upload.offset)} of {size_text(upload.size)}"


def _processing(upload: Upload) -> tuple[float | None, str]:
    if upload.state is State.DONE:
        return 100.0, "done"
    if upload.state is State.PROCESSING:
        progress = upload.progress or {}
        fraction = float(progress.get("fraction") or 0.0)
        message = str(progress.get("message") or "")
        return round(100 * fraction, 1), f"{int(100 * fraction)} %" + (f" · {message}" if message else "")
    if upload.is_mismatched:
        return None, "not begun"
    return None, {State.QUEUED: "waiting for a free worker", State.FAILED: "failed"}.get(upload.state, "")


def _hint(upload: Upload, interrupted: bool) -> str:
    if interrupted:
        kept = f"{size_text(upload.offset)} are kept until {time_text(upload.expires_at)}" if upload.offset else ""
        return (
            "Nothing is arriving for this file. "
            + (f"{kept}: choose" if kept else "Choose")
            + " the same file again in the browser that began the upload, and it continues where it stopped."
        )
    if upload.is_mismatched:
        return MISMATCH
    if upload.state is State.FAILED:
        reason = (upload.error or "The processing failed.").rstrip()
        return f"{reason} The uploaded file is kept: process it again, or download it."
    if upload.state is State.EXPIRED:
        percent = int(100 * upload.offset / max(1, upload.size))
        return (
            f"The upload stopped at {percent} % and was not continued in time, so what had arrived was deleted."
            " Upload the file again."
        )
    return {
        State.QUEUED: CLOSABLE,
        State.PROCESSING: CLOSABLE,
        State.DONE: upload.detected_type or "",
        State.TERMINATED: "This file was deleted on request. Nothing of it is kept.",
    }.get(upload.state, "")


def size_text(count: int) -> str:
    """Bytes in decimal units with at most one decimal: 1_500_000 -> "1.5 MB". The frontend's `format.ts` agrees."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value /= 1000
        unit += 1
    if unit == 0 or value >= 99.95:
        return f"{value:.0f} {UNITS[unit]}"
    return f"{value:.1f}".removesuffix(".0") + f" {UNITS[unit]}"


def time_text(moment: datetime) -> str:
    """Universal time to the minute; the script replaces it with the browser's local time."""
    return f"{moment.day} {moment:%b %Y, %H:%M} UTC"
