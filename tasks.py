"""The tasks of `./inv --list`: composes the modules of ops/tasks, nothing else."""

from __future__ import annotations

from invoke import Collection

from ops.tasks import (
    access,
    app,
    bench,
    build,
    database,
    deploy,
    docs,
    host,
    lab,
    load,
    lock,
    packages,
    processors,
    provision,
    requirements,
    role,
    secrets,
    status,
    test,
    trace,
)

WITHOUT_PREFIX = (access, build, deploy, load, provision, status, test, trace)
WITH_PREFIX = (app, bench, database, docs, host, lab, lock, packages, processors, requirements, role, secrets)

namespace = Collection()
for module in WITHOUT_PREFIX:
    for task in Collection.from_module(module).tasks.values():
        namespace.add_task(task)
for module in WITH_PREFIX:
    namespace.add_collection(Collection.from_module(module))
