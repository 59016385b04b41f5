"""A private PostgreSQL server for tests: on 127.0.0.1, its data in a directory of its own, without durability.

A session's databases are files by the ten thousand: where the machine has plenty of memory, they never get to a disk.

It has a certificate for 127.0.0.1, so that clients may check it (``certificate``).
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import hashlib
import ipaddress
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import BinaryIO

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.ca.migrated import migrate
from tests.free_ports import free_port

USER = "touchmark"
_TEMPLATE = "migrated"
_PREFIX = "touchmark-postgresql-"
_MEMORY = "/dev/shm"


def find_programs() -> Path | None:
    """Return the directory of ``initdb`` and ``postgres``, newest version first: Debian has them on no PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    found = shutil.which("initdb")
    for place in (*places, *([Path(found).resolve().parent] if found else [])):
        if all(os.access(place / name, os.X_OK) for name in ("initdb", "postgres")):
            return place
    return None


class PostgreSQL:
    """One server. It refuses to run as root, so that root starts it as the user ``postgres``."""

    def __init__(self, programs: Path) -> None:
        self.password = secrets.token_urlsafe(12)
        self._programs = programs
        # Not below pytest's own directories, through which no other user comes.
        self._directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_find_place()))
        self._lock = _hold(self._directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._made: set[str] = set()
        self.certificate = self._directory / "server.crt"

    def start(self) -> None:
        """Make the data directory and start; ready when it returns."""
        (self._directory / "password").write_text(self.password)
        _write_certificate(self.certificate, self._directory / "server.key")
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            for path in (self._directory, *self._directory.iterdir()):
                os.chown(path, account.pw_uid, account.pw_gid)
        options = ["-D", "data", "-U", USER, "--auth=scram-sha-256", "--pwfile=password", "--no-sync", "-E", "UTF8"]
        self._run("initdb", *options, "--locale=C")
        self.restart()

    def restart(self) -> None:
        """Start, again where it ran before; on the same port. It ends with the thread that calls."""
        self.stop()
        self._port = self._port or free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": str(self._directory),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",  # It connects to any database, and one with connections can't be copied.
            "max_connections": "200",
            "shared_buffers": "32MB",
            "ssl": "on",
            "ssl_cert_file": str(self.certificate),
            "ssl_key_file": str(self._directory / "server.key"),
        }
        arguments = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._as_user(), str(self._programs / "postgres"), "-D", "data", *arguments],
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def stop(self) -> None:
        """Stop, breaking every connection."""
        self._end(signal.SIGINT)  # "Fast": connections are ended, data is written.

    def close(self) -> None:
        """Stop, and remove the data."""
        self._end(signal.SIGQUIT)  # "Immediate": nothing is written any more.
        shutil.rmtree(self._directory, ignore_errors=True)
        self._lock.close()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def url(self, name: str, *, password: str | None = None) -> str:
        """Return the URL of a database, which is made when it isn't there."""
        if name not in self._made:
            self._made.add(name)
            self.execute("postgres", f'CREATE DATABASE "{name}"')
        return f"postgresql://{USER}:{password or self.password}@127.0.0.1:{self._port}/{name}"

    def url_for(self, directory: Path) -> str:
        """Return the URL of the database that takes a data directory's place."""
        return self.url(_name(directory))

    def make_template(self) -> None:
        """Make what ``provide`` copies, before anyone asks for it. Nobody can connect to it then."""
        migrate(self.url(_TEMPLATE))
        self.execute("postgres", f'ALTER DATABASE "{_TEMPLATE}" ALLOW_CONNECTIONS false')
        self.restart()  # A connection that its client has closed may last on a busy machine: all have ended now.

    def provide(self, directory: Path) -> None:
        """Make the database that takes a data directory's place as a copy of the template, unless it is there."""
        name = _name(directory)
        if name not in self._made:
            self._made.add(name)
            self.execute("postgres", f'CREATE DATABASE "{name}" TEMPLATE "{_TEMPLATE}"')

    def execute(self, database: str, statement: str) -> None:
        """Run one statement, in single-user fashion through ``psql``."""
        environment = {**os.environ, "PGPASSWORD": self.password}
        where = ["-h", "127.0.0.1", "-p", str(self._port), "-U", USER, "-d", database]
        psql = self._programs / "psql"
        subprocess.run(
            [psql, "-X", "-q", "-v", "ON_ERROR_STOP=1", *where, "-c", statement],
            env=environment,
            check=True,
            capture_output=True,
            timeout=120,
        )

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user(), str(self._programs / program), *arguments]
        subprocess.run(command, cwd=self._directory, check=True, capture_output=True, timeout=120)

    def _as_user(self) -> list[str]:
        ending = ["setpriv", "--pdeathsig", "KILL"]
        if os.geteuid() != 0:
            return [*ending, "--"]
        return [*ending, "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            try:
                self.execute("postgres", "SELECT 1")
                return
            except subprocess.CalledProcessError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self._directory / "log").read_text()[-2000:]) from None
                time.sleep(0.1)


def _find_place() -> str | None:
    """Return the file system in memory where it takes all databases of three servers (4 GB) with ease; else None."""
    if not os.access(_MEMORY, os.W_OK):
        return None
    _remove_left()
    there = os.statvfs(_MEMORY)
    room = there.f_bavail * there.f_frsize
    [available] = re.findall(r"(?m)^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(encoding="ascii"))
    return _MEMORY if min(room, int(available) * 1024) >= 12 << 30 else None


def _hold(directory: Path) -> BinaryIO:
    """Say that a directory is in use, until the file is closed or this process ends."""
    file = (directory / "new").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    (directory / "new").rename(directory / "lock")
    return file


def _remove_left() -> None:
    """Remove what sessions that were killed have left in memory."""
    for lock in Path(_MEMORY).glob(f"{_PREFIX}*/lock"):
        with contextlib.suppress(OSError), lock.open("r+b") as file:  # Another session's, or one that just ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _name(directory: Path) -> str:
    return "d" + hashlib.sha256(str(directory).encode()).hexdigest()[:16]


def _write_certificate(certificate: Path, key_file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test database")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key_file.touch(mode=0o600)
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
