"""moto, with what services have and it has not: requests one after the other, and a log of
them on disk, from which it begins again after a kill.

    moto_server.py PORT LOG
"""

import base64
import datetime
import io
import json
import sys
import threading
import time
import types

from werkzeug.serving import run_simple


class Member:
    """The path of a member of an event, `$.name`, which is all that is asked for here. The
    package that moto has for that is not needed for anything else, and takes 25 ms for each."""

    def __init__(self, path):
        self.name = path.removeprefix("$.")

    def find(self, event):
        found = [event[self.name]] if self.name in event else []
        return [types.SimpleNamespace(value=value) for value in found]


paths = types.ModuleType("jsonpath_ng.ext")
paths.parse = Member
sys.modules.update({"jsonpath_ng": types.ModuleType("jsonpath_ng"), "jsonpath_ng.ext": paths})

from moto.core import utils  # noqa: E402
from moto.events import models as events  # noqa: E402
from moto.moto_server.werkzeug_app import (  # noqa: E402
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from moto.sqs.models import Queue  # noqa: E402

# Each message that comes has them counted again, all of them and several times.
for count in ["messages", "messages_delayed", "messages_not_visible"]:
    setattr(Queue, "approximate_number_of_" + count, 0)


class Logged:
    """An application that writes each request down before it acts on it."""

    def __init__(self, app, path):
        self.app = app
        self.turn = threading.Lock()
        # A bus is known by when it was made, to the last digit.
        self.at = 0
        events.unix_time = lambda of=None: self.at
        self.log = open(path, "ab+", buffering=0)

    def __call__(self, environ, start_response):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length) if length else b""
        if len(body) < length:
            # Nobody acts on half a request.
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []
        kept = {name: value for name, value in environ.items() if isinstance(value, str)}
        with self.turn:
            self.at = time.time()
            line = json.dumps([self.at, kept, base64.b64encode(body).decode()]) + "\n"
            self.log.write(line.encode())
            return self.act({**environ, "wsgi.input": io.BytesIO(body)}, start_response)

    def act(self, environ, start_response):
        answer = self.app(environ, start_response)
        try:
            return list(answer)
        finally:
            if hasattr(answer, "close"):
                answer.close()

    def begin_again(self):
        """Does all of it again, each at the time at which it was done before."""
        now = utils.utcnow
        self.log.seek(0)
        whole = 0
        for line in self.log.read().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                # It was being written, and nobody has acted on it.
                break
            whole += len(line)
            self.at, environ, body = json.loads(line)
            at = datetime.datetime.fromtimestamp(self.at, datetime.timezone.utc)
            at = at.replace(tzinfo=None)
            utils.utcnow = lambda at=at: at
            environ = {
                **environ,
                "wsgi.version": (1, 0),
                "wsgi.input": io.BytesIO(base64.b64decode(body)),
                "wsgi.errors": sys.stderr,
                "wsgi.multithread": False,
                "wsgi.multiprocess": False,
                "wsgi.run_once": False,
            }
            self.act(environ, lambda status, headers, exc_info=None: None)
        utils.utcnow = now
        self.log.truncate(whole)


class Whole(MotoRequestHandler):
    """Head and body of an answer go out together, as they do from the services."""

    wbufsize = -1


app = Logged(DomainDispatcherApplication(create_backend_app), sys.argv[2])
app.begin_again()
run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True, request_handler=Whole)
