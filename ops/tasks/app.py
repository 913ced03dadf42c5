"""The tasks `app.*`: the application on this machine."""

from __future__ import annotations

import signal

from ops import frontend as pages
from ops.console import console
from ops.local_app import STATE, forget, running
from ops.tasks.declare import task


@task(help={"port": "port on 127.0.0.1", "fresh": "remove everything that earlier runs have kept first"})
def run(_context: object, port: int = 8080, fresh: bool = False) -> None:
    """Run the application on this machine, without a lab."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # As with Ctrl-C: nothing may be left running when the terminal is closed.
        signal.signal(number, signal.default_int_handler)
    if fresh:
        forget(STATE)
    with running(STATE, port=port) as app:
        console.print(f"[bold]{app.url}[/]   access token: [bold]{app.token}[/]")
        console.print(f"logs: {app.state / 'web.log'} and worker.log; Ctrl-C ends it")
        try:
            app.watch()
        except KeyboardInterrupt:
            console.print("stopping")


@task()
def frontend(_context: object) -> None:
    """Build the scripts and styles of the pages."""
    console.print(str(pages.build()))
