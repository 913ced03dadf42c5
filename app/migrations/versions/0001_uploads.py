"""Uploads with their pieces, attempts and results, and Procrastinate's queue."""

from __future__ import annotations

from typing import Literal

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0001"
down_revision = None
phase: Literal["expand", "contract"] = "expand"
procrastinate_up_to = "03.04.00_50_post_add_retry_failed_job_procedure.sql"
"""The newest of Procrastinate's own migrations that is in the schema below; later ones need revisions of their own."""

UPLOADS = """
create table uploads (
    id text primary key,
    key text not null unique,
    owner text not null,
    filename text not null default '',
    content_type text not null default '',
    metadata jsonb not null default '{}',
    size bigint not null check (size >= 0),
    "offset" bigint not null default 0,
    epoch bigint not null default 0,
    state text not null default 'receiving'
        check (state in ('receiving', 'queued', 'processing', 'done', 'failed', 'terminated', 'expired')),
    server text not null default '',
    receiver text,
    asked_epoch bigint,
    sha256 text,
    detected_type text,
    progress jsonb,
    error text,
    attempt_id uuid,
    request_id text,
    version bigint not null default 0,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    expires_at timestamptz not null,
    completed_at timestamptz,
    finished_at timestamptz,
    check ("offset" between 0 and size),
    check ((state = 'receiving') = (completed_at is null) or state in ('terminated', 'expired'))
);
create index uploads_updated on uploads (updated_at);
create index uploads_owner on uploads (owner, created_at desc);
create index uploads_expiry on uploads (expires_at) where state = 'receiving';

comment on table uploads is 'One row per upload. A piece counts only by moving "offset" under the row''s epoch.';
comment on column uploads.id is 'Last part of the upload URL; safe to log.';
comment on column uploads.key is 'Unguessable part of the upload URL; never logged.';
comment on column uploads.metadata is 'Upload-Metadata as sent: name -> base64 value, in the order sent.';
comment on column uploads."offset" is 'End of the contiguous counted pieces, in bytes.';
comment on column uploads.epoch is 'Raised by each take-over; only a receiver of this epoch can commit a piece.';
comment on column uploads.receiver is 'Process that receives now; null when none does. A hint, not an authority.';
comment on column uploads.asked_epoch is 'Epoch whose receiver is asked to store what it has and leave.';
comment on column uploads.sha256 is 'Of the whole content, in hexadecimal, computed by the worker that verified it.';
comment on column uploads.progress is 'Of processing: {"fraction": 0..1, "message": text}.';
comment on column uploads.attempt_id is 'The attempt whose results are published.';
comment on column uploads.version is 'Raised by every update of the row.';

create function uploads_touch() returns trigger language plpgsql as $$
begin
    new.version := old.version + 1;
    new.updated_at := clock_timestamp();
    return new;
end
$$;
create trigger uploads_touch before update on uploads for each row execute function uploads_touch();
"""

PIECES = """
create table pieces (
    id uuid primary key,
    upload_id text not null references uploads,
    start bigint not null check (start >= 0),
    length bigint not null check (length > 0),
    epoch bigint not null,
    digests bytea not null,
    name text not null unique,
    committed_at timestamptz not null default now(),
    retired_at timestamptz,
    check (octet_length(digests) = 32 * ((length + 1048575) / 1048576))
);
create unique index pieces_live on pieces (upload_id, start) where retired_at is null;
create index pieces_retired on pieces (retired_at) where retired_at is not null;

comment on table pieces is 'Immutable parts of uploads in the store. The live ones of an upload are contiguous.';
comment on column pieces.digests is 'SHA-256 of each MiB of the piece, 32 bytes each, one after the other.';
comment on column pieces.name is 'Object name in the store: uploads/<upload>/<epoch>-<start>-<id>.';
comment on column pieces.retired_at is 'No longer part of the upload; kept for readers and backups.';
"""

ATTEMPTS = """
create table attempts (
    id uuid primary key,
    upload_id text not null references uploads,
    number integer not null check (number > 0),
    state text not null default 'running' check (state in ('running', 'done', 'failed', 'superseded')),
    job_id bigint,
    worker text not null,
    error text,
    started_at timestamptz not null default now(),
    finished_at timestamptz,
    unique (upload_id, number)
);
alter table uploads add foreign key (attempt_id) references attempts;

comment on table attempts is 'Runs of a processor on an upload. At most one is published: uploads.attempt_id.';

create table results (
    id uuid primary key,
    upload_id text not null references uploads,
    attempt_id uuid not null references attempts,
    name text not null,
    size bigint not null check (size >= 0),
    sha256 text not null,
    content_type text not null,
    digests bytea not null,
    object_name text not null unique,
    created_at timestamptz not null default now(),
    unique (attempt_id, name),
    check (octet_length(digests) = 32 * ((size + 1048575) / 1048576))
);
create index results_upload on results (upload_id);

comment on table results is 'Files that an attempt made; shown when the attempt is the published one.';
comment on column results.object_name is 'Object name in the store: results/<upload>/<attempt>/<id>.';
"""

# A NOTIFY takes a lock of the whole cluster until its transaction has been replicated, so completing uploads would wait
# for each other. Workers poll instead (their fetch interval is a second).
QUIET_QUEUE = """
alter table procrastinate_jobs disable trigger procrastinate_jobs_notify_queue_job_inserted_v1;
alter table procrastinate_jobs disable trigger procrastinate_jobs_notify_queue_job_aborted_v1;
"""


def upgrade() -> None:
    """Create everything in an empty database."""
    connection = op.get_bind()
    connection.exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    for statements in (UPLOADS, PIECES, ATTEMPTS, QUIET_QUEUE):
        connection.exec_driver_sql(statements)
