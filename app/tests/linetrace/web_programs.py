"""Small web applications under real servers, each in one file: `python main.py PORT`.

All answer /hello/NAME with the lines marked `# traced`, and stream /stream in two parts.
"""

from __future__ import annotations

COMMON = """\
import logging, sys
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
KEY = b"a key of sixteen bytes and more"
TRACING = {"folders": ["."], "token_key": KEY, "environment": "test", "to": "file:trace"}

def greet(name):
    text = "hello " + name  # traced
    return text  # traced

"""

ASGI = (
    COMMON
    + """\
import asyncio, uvicorn
import linetrace
from linetrace.asgi import LineTrace

async def app(scope, receive, send):
    assert scope["type"] == "http"
    await asyncio.sleep(0)
    parts = [b"a", b"b"]
    if scope["path"].startswith("/hello/"):
        linetrace.add(user="ann")
        parts = [greet(scope["path"][7:]).encode()]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})

linetrace.listen(".", "web", ["."])
uvicorn.run(LineTrace(app, **TRACING), port=int(sys.argv[1]), lifespan="off", log_level="warning")
"""
)

STARLETTE = (
    COMMON
    + """\
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
import linetrace
from linetrace.asgi import LineTrace

def hello(request):  # in a thread pool
    linetrace.add(user="ann")
    return PlainTextResponse(greet(request.path_params["name"]))

async def stream(request):
    async def parts():
        yield b"a"
        yield b"b"
    return StreamingResponse(parts())

app = Starlette(routes=[Route("/hello/{name}", hello), Route("/stream", stream)])
linetrace.listen(".", "web", ["."])
uvicorn.run(LineTrace(app, **TRACING), port=int(sys.argv[1]), lifespan="off", log_level="warning")
"""
)

FLASK = (
    COMMON
    + """\
import flask
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from socketserver import ThreadingMixIn
import linetrace
from linetrace.wsgi import LineTrace

app = flask.Flask(__name__)

@app.route("/hello/<name>")
def hello(name):
    linetrace.add(user="ann")
    return greet(name)

@app.route("/stream")
def stream():
    def parts():
        yield "a"
        yield "b"
    return flask.Response(parts())

class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

linetrace.listen(".", "web", ["."])
server = Server(("127.0.0.1", int(sys.argv[1])), WSGIRequestHandler)
server.set_app(LineTrace(app, **TRACING))
server.serve_forever()
"""
)

_DJANGO = (
    COMMON
    + """\
import types
import django
from django.conf import settings
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

def sign_in(get_response):
    def middleware(request):
        request.user = types.SimpleNamespace(is_authenticated=True, get_username=lambda: "ann")
        return get_response(request)
    return middleware

settings.configure(
    BASE_DIR=".",
    SECRET_KEY="secret",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=["linetrace.django.LineTrace", __name__ + ".sign_in"],
    LINETRACE={"DIRECTORY": ".", "NAME": "web", "TOKEN_KEY": KEY, "ENVIRONMENT": "test", "TO": "file:trace"},
)
django.setup()
"""
)

DJANGO_WSGI = (
    _DJANGO
    + """\
from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
from django.core.wsgi import get_wsgi_application

def hello(request, name):
    return HttpResponse(greet(name))

def stream(request):
    def parts():
        yield b"a"
        yield b"b"
    return StreamingHttpResponse(parts())

urlpatterns = [path("hello/<name>", hello), path("stream", stream)]
server = ThreadedWSGIServer(("127.0.0.1", int(sys.argv[1])), WSGIRequestHandler)
server.set_app(get_wsgi_application())
server.serve_forever()
"""
)

DJANGO_ASGI = (
    _DJANGO
    + """\
import uvicorn
from django.core.asgi import get_asgi_application

async def hello(request, name):
    return HttpResponse(greet(name))

async def stream(request):
    async def parts():
        yield b"a"
        yield b"b"
    return StreamingHttpResponse(parts())

urlpatterns = [path("hello/<name>", hello), path("stream", stream)]
uvicorn.run(get_asgi_application(), port=int(sys.argv[1]), lifespan="off", log_level="warning")
"""
)

PROGRAMS = {
    "asgi": ASGI,
    "starlette": STARLETTE,
    "flask": FLASK,
    "django under wsgi": DJANGO_WSGI,
    "django under asgi": DJANGO_ASGI,
}
