"""Turning an uploaded file into results: the queue's jobs, their attempts, and the processors that they run.

attempts   the transactions that decide which run of a processor is published
processor  a processor's script as a child process, and the protocol of progress lines
runner     how a worker gets a processor run: as its child, or behind the socket of a sandboxed unit
unit       what runs behind that socket (`longhaul processor`)
job        one attempt from staging to publication
queue      the queue itself, and the jobs of workers that died
worker     the process that takes jobs from the queue (`longhaul worker`)
upkeep     removing results that nobody can see
"""
