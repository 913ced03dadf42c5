"""The tasks of `./inv --list`: composes the collections of ops/, nothing else."""

from __future__ import annotations

from typing import Any

from invoke import Collection, Task

import ops.access
import ops.app
import ops.authority
import ops.bootstrap
import ops.build
import ops.deploy
import ops.docs
import ops.lab.tasks
import ops.load.tasks
import ops.lock_tasks
import ops.packages.tasks
import ops.processors
import ops.provision
import ops.reboot
import ops.requirements
import ops.roles
import ops.secret_tasks
import ops.status
import ops.testing


def _collection(name: str, *tasks: Task[Any]) -> Collection:
    collection = Collection(name)
    for task in tasks:
        collection.add_task(task)
    return collection


namespace = Collection()
namespace.add_task(ops.deploy.deploy)
namespace.add_task(ops.deploy.rollback)
namespace.add_task(ops.deploy.deploys)
namespace.add_task(ops.build.build)
namespace.add_task(ops.provision.provision)
namespace.add_task(ops.provision.drift)
namespace.add_task(ops.access.show)
namespace.add_task(ops.status.show)
namespace.add_task(ops.load.tasks.load)
namespace.add_task(ops.testing.run_tests)
namespace.add_task(ops.testing.lint)
namespace.add_collection(_collection("app", ops.app.run, ops.app.frontend))
namespace.add_collection(_collection("database", ops.deploy.contract))
namespace.add_collection(_collection("docs", ops.docs.build, ops.docs.check))
namespace.add_collection(_collection("host", ops.bootstrap.bootstrap, ops.reboot.reboot))
namespace.add_collection(ops.lab.tasks.namespace)
namespace.add_collection(_collection("lock", ops.lock_tasks.show, ops.lock_tasks.break_lock))
namespace.add_collection(
    _collection(
        "packages",
        ops.packages.tasks.status,
        ops.packages.tasks.diff,
        ops.packages.tasks.update,
        ops.packages.tasks.revert,
        ops.packages.tasks.apply,
    )
)
namespace.add_collection(_collection("processors", ops.processors.ship, ops.processors.revert))
namespace.add_collection(_collection("requirements", ops.requirements.lock, ops.requirements.update))
namespace.add_collection(_collection("role", ops.roles.run_test))
namespace.add_collection(
    _collection(
        "secrets",
        ops.secret_tasks.init,
        ops.secret_tasks.edit,
        ops.secret_tasks.rotate,
        ops.authority.rotate,
    )
)
