"""The demo's server, a real program: nginx where it is installed, else a Python script. Writes files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.machine.machine import find_program
from shared.model.errors import MachineError

GREETING: Final = "hello from shop/web"

_NGINX: Final = """\
daemon off; master_process off; user root root; pid {directory}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off;
  client_body_temp_path {directory}/nginx-body; proxy_temp_path {directory}/nginx-proxy;
  fastcgi_temp_path {directory}/nginx-fastcgi; uwsgi_temp_path {directory}/nginx-uwsgi;
  scgi_temp_path {directory}/nginx-scgi;
  server {{
    listen {listen};
    location / {{ default_type text/plain; return 200 "{greeting} $http_x_marker\\n"; }}
  }}
}}
"""

_PYTHON: Final = '''\
"""The demo's server."""
import http.server

class Greeter(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = ("{greeting} " + self.headers.get("X-Marker", "") + "\\n").encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("{host}", {port}), Greeter).serve_forever()
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The server as a command, and the arguments with which ``touchmark program approve`` approves it."""

    description: str
    command: tuple[str, ...]
    approval: tuple[str, ...]
    greeting: str = GREETING


def write_server(directory: Path, listen: str, *, choice: str = "auto") -> Server:
    """Write the server's files and return how it is run.

    Arguments:
        listen: ``host:port``, an IPv4 address.
        choice: ``nginx``, ``python``, or ``auto``: nginx where it is installed.

    Raises:
        MachineError: nginx was requested and isn't installed.
    """
    nginx = find_program("nginx") if choice != "python" else None
    if nginx is None and choice == "nginx":
        raise MachineError("nginx isn't installed", hint="apt install nginx, or --server python")
    if nginx is not None:
        file = directory / "nginx.conf"
        file.write_text(_NGINX.format(directory=directory, listen=listen, greeting=GREETING), encoding="utf-8")
        # nginx opens its compiled-in log before it reads the file: -e takes that away (1.19.5 and newer).
        command = (nginx, "-e", "stderr", "-p", str(directory), "-c", str(file))
        return Server(description="nginx", command=command, approval=(os.path.realpath(nginx),))
    script = directory / "server.py"
    host, _, port = listen.rpartition(":")
    script.write_text(_PYTHON.format(greeting=GREETING, host=host, port=port), encoding="utf-8")
    python = os.path.realpath(sys.executable)
    return Server(
        description="a Python script, approved as an interpreter with this main script only",
        command=(python, str(script)),
        approval=(python, "--weak", "--main", str(script)),
    )
