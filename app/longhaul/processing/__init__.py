"""Turning an uploaded file into results, in the order of reading:

worker    the process that takes jobs from the queue (`longhaul worker`)
queue     the queue itself, and the jobs of workers that died
attempt   one attempt at a job, from staging to publication
records   the transactions that decide which attempt is published (`uploads.results` reads what was)
runner    how a worker gets a script run: as its child, or behind the socket of a sandboxed unit
sandbox   what runs behind that socket (`longhaul processor`)
script    a processor's script as a child process, and the protocol of its progress lines
sweep     removing results that nobody can see

When the database is away in the middle of a job: a report of progress is tried once, the next one makes up for it.
Whatever decides (beginning, publishing, failing, giving back) waits up to `records.PATIENCE_SECONDS`; after that the
attempt raises `NotNow`, its job runs again, and the next attempt supersedes it. A commit whose outcome is unknown is
made once more: each gives the same answer twice. No job is taken from a worker that seems dead before the database has
been reachable for long enough that a living one could say so (see `queue`).
"""
