"""Turns an uploaded file into results. The modules in reading order:

worker    the process that takes jobs from the queue (`longhaul worker`)
queue     taking jobs, and giving back the jobs of workers that died
attempt   one attempt at a job, from staging to publication
records   the transactions that decide which attempt is published (`uploads.results` reads what was)
runner    how a worker gets a script run: as its child, or behind the socket of a sandboxed unit
sandbox   what runs behind that socket (`longhaul processor`)
script    a processor's script as a child process, and the protocol of its progress lines
sweep     deleting results that are not visible to anybody

If the database is away in the middle of a job:
- A report of progress is tried once. The next report makes up for it.
- A transaction that decides (begin, publish, fail, give back) waits up to `records.PATIENCE_SECONDS`. After that the
  attempt raises `NotNow`, its job runs again, and the next attempt supersedes this one.
- If the outcome of a commit is unknown, the transaction is run again. Each gives the same answer twice.
- A worker that seems dead keeps its jobs until the database has been reachable for long enough that a living worker
  would have sent a heartbeat (see `queue`).
"""
