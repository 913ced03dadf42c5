"""Django middleware: the first line of MIDDLEWARE in the settings, `"linetrace.django.LineTrace"`.

It listens for `python -m linetrace attach` in each process, and gives each request a scope. The setting LINETRACE may
hold `FOLDERS` (default: BASE_DIR), `DIRECTORY` (of the sockets; default: see listener.default_directory), `NAME`
(default: `django`), `SYSLOG` (parameters of sinks.SyslogSink), and for tokens `TOKEN_KEY` (bytes), `ENVIRONMENT`, `TO`.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from linetrace import context, listener
from linetrace.context import Scope
from linetrace.entry import Entry, enter, finish, leave, log
from linetrace.wsgi import Steps

_listening: list[listener.Listener] = []


class LineTrace:
    """Works in synchronous and asynchronous stacks. Put it first, so that the other middleware is traced too."""

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        settings = importlib.import_module("django.conf").settings
        given: dict[str, Any] = getattr(settings, "LINETRACE", {})
        folders = given.get("FOLDERS") or [settings.BASE_DIR]
        self._get_response = get_response
        self._is_async = inspect.iscoroutinefunction(get_response)
        if self._is_async:
            inspect.markcoroutinefunction(self)
        self._entry = Entry(
            folders,
            token_key=given.get("TOKEN_KEY"),
            environment=given.get("ENVIRONMENT", ""),
            to=given.get("TO", "syslog"),
        )
        if not _listening:  # Django may build its middleware more than once
            try:
                directory = given.get("DIRECTORY") or listener.default_directory()
                name = given.get("NAME", "django")
                _listening.append(listener.listen(directory, name, folders, syslog=given.get("SYSLOG")))
            except OSError as error:
                log.warning("this process cannot be traced by attaching to it: %s", error)

    def __call__(self, request: Any) -> Any:
        """Serve one request."""
        scope = self._entry.scope(request.method, request.path, request.headers.get)
        if self._is_async:
            return self._serve_async(request, scope)
        token = enter(scope, begins=True)
        try:
            response = self._get_response(request)
        except BaseException:
            leave(token)
            finish(scope)
            raise
        leave(token)
        if not _streams(response):
            finish(scope)
        elif response.is_async:
            response.streaming_content = _async_steps(response.streaming_content, scope)
        else:
            response.streaming_content = _finishing(response.streaming_content, scope)
        return response

    async def _serve_async(self, request: Any, scope: Scope) -> Any:
        token = enter(scope, begins=True)
        streams = False
        try:
            response = await self._get_response(request)
            streams = _streams(response)
        finally:
            leave(token)
            if not streams:
                finish(scope)
        if streams and response.is_async:
            response.streaming_content = _async_steps(response.streaming_content, scope)
        elif streams:
            response.streaming_content = _finishing(response.streaming_content, scope)
        return response

    def process_view(self, request: Any, *_: object) -> None:
        """Find out the user, now that its middleware ran. Only while a tracer is armed: it may ask the database."""
        if context.watched():
            user = getattr(request, "user", None)
            if user is not None and user.is_authenticated:
                context.add(user=user.get_username())


def _streams(response: Any) -> bool:
    """Whether parts of the body are made later by code of the program. Files are sent by the server in its own way."""
    return bool(getattr(response, "streaming", False)) and getattr(response, "file_to_stream", None) is None


def _finishing(content: Iterable[bytes], scope: Scope) -> Iterable[bytes]:
    steps = Steps(content, scope)
    try:
        yield from steps
    finally:
        finish(scope)


async def _async_steps(content: AsyncIterator[bytes], scope: Scope) -> AsyncIterator[bytes]:
    """The parts of a body, each made in the scope of its request."""
    parts = aiter(content)
    try:
        while True:
            token = enter(scope)
            try:
                making: Awaitable[bytes] = anext(parts)
                part = await making
            except StopAsyncIteration:
                return
            finally:
                leave(token)
            yield part
    finally:
        finish(scope)
