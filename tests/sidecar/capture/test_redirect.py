"""Installing the table: refused in the host's network namespace, whole in one of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from shared.model.errors import MachineError
from sidecar.capture import redirect
from sidecar.capture.redirect import refuse_host_namespace

INSTALL = """
import subprocess
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules
for _ in range(2):
    install_redirect(RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337))
print(subprocess.run(['nft', 'list', 'table', 'inet', 'touchmark'], capture_output=True, text=True).stdout)
"""


@pytest.mark.needs_root
@pytest.mark.parametrize("release", [(6, 18), (6, 1), (0, 0)])
def test_the_hosts_network_namespace_is_refused(monkeypatch: pytest.MonkeyPatch, release: tuple[int, int]) -> None:
    """By its number; before Linux 6.18 by the sysctls that only the first one has."""
    monkeypatch.setattr(redirect, "_kernel_release", lambda: release)
    if release < (6, 18):
        monkeypatch.setattr(redirect, "_FIRST_NETWORK_NAMESPACE", 0)
    with pytest.raises(MachineError, match="refused in the host's"):
        refuse_host_namespace()


POD = """
import os
from sidecar.capture import redirect
assert os.stat('/proc/1/ns/net').st_ino == os.stat('/proc/self/ns/net').st_ino and os.getpid() != 1
for release in ((6, 18), (6, 1)):
    redirect._kernel_release = lambda release=release: release
    redirect.refuse_host_namespace()
print('not the host')
"""


@pytest.mark.needs_root
def test_a_pods_namespace_is_told_from_the_hosts_although_pid_1_is_in_it_as_well() -> None:
    """A process namespace of the pod's own, shared by its containers: PID 1 is the pause container, not the host's."""
    shell = f'{sys.executable} -c "$CODE"; true'
    done = subprocess.run(
        ["unshare", "--net", "--pid", "--fork", "--mount-proc", "sh", "-c", shell],
        env={**os.environ, "CODE": POD}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "not the host\n", done.stderr


def test_where_sysctls_cannot_be_seen_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redirect, "_kernel_release", lambda: (6, 1))
    monkeypatch.setattr(redirect, "_FIRST_NETWORK_NAMESPACE", 0)
    monkeypatch.setattr("os.listdir", lambda _: [])
    with pytest.raises(MachineError, match="can't tell"):
        refuse_host_namespace()


@pytest.mark.needs_root
def test_the_table_is_installed_once_however_often() -> None:
    done = subprocess.run(["unshare", "-n", sys.executable, "-c", INSTALL], capture_output=True, text=True, check=True)
    assert done.stdout.count("redirect to :14970-15001") == 1
    assert done.stdout.count("redirect to :15006") == 1


# A pod that reaches other networks, a listener on each port of the sidecar, and one source port for all.
EXHAUST = """
import errno, ipaddress, socket, subprocess, sys
from sidecar.capture.original_destination import ask_original_destination, normalise_endpoint
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules, list_outbound_ports
own, first, loopback = sys.argv[1:]
for command in (
    'link set lo up', 'link add pod type veth peer name outside', 'addr add 198.18.0.2/15 dev pod',
    'addr add 2001:db8::2/64 dev pod nodad', 'link set pod up', 'link set outside up',
):
    subprocess.run(['ip', *command.split()], check=True)
rules = RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337)
install_redirect(rules)
family = socket.AF_INET6 if ':' in own else socket.AF_INET
ports = list_outbound_ports(rules.outbound_port, rules.inbound_port, rules.tunnel_port)
listeners = [socket.create_server((loopback, port), family=family) for port in ports]
programs, captured = [], []
def dial(number, source_port):
    program = socket.socket(family)
    program.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    program.bind((own, source_port))
    program.setblocking(False)
    # Loopback: when it returns, the SYN has arrived or been dropped.
    assert program.connect_ex((str(ipaddress.ip_address(first) + number), 5432)) == errno.EINPROGRESS
    programs.append(program)
def accept():
    for listener in listeners:
        listener.setblocking(False)
        try:
            connection, name = listener.accept()
        except BlockingIOError:
            continue
        captured.append(connection)
        source = normalise_endpoint(name)
        yield source, ask_original_destination(connection, source)
for number in range(len(ports)):
    dial(number, 40404)
    assert list(accept()) == [((own, 40404), (str(ipaddress.ip_address(first) + number), 5432))]
dial(len(ports), 40404)
dial(len(ports) + 1, 40404)
assert list(accept()) == [], 'a source port was changed'
assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 2 for each in programs[-2:])  # SYN_SENT
dial(0, 40405)
assert [source for source, _ in accept()] == [(own, 40405)]
print('never changed')
"""


@pytest.mark.needs_root
@pytest.mark.parametrize(
    ("own", "first", "loopback"), [("198.18.0.2", "198.18.1.1", "127.0.0.1"), ("2001:db8::2", "2001:db8::100", "::1")]
)
def test_a_connection_whose_source_port_the_redirect_would_change_is_dropped(
    own: str, first: str, loopback: str
) -> None:
    """One source port takes all 32 ports; the kernel would then give the next connection any program's source port."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", EXHAUST, own, first, loopback], capture_output=True, text=True
    )
    assert done.stdout == "never changed\n", done.stderr


# A pod and another host, which answers "outside"; where the sidecar would listen, the answer is "sidecar".
OUTSIDE = """
import socket
server = socket.create_server(('198.18.0.9', 5432))
print('up', flush=True)
while True:
    connection, _ = server.accept()
    connection.sendall(b'outside')
    connection.close()
"""
PROGRAM = """
import os, socket
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
def make(port, device=b''):
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if device:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
    made.bind(('198.18.0.2', port))
    return made
for port, device in ((40002, b''), (40003, b'lo'), (40004, b'pod')):
    first = make(port, device)
    if device:
        first.setblocking(False)
        first.connect_ex(('198.18.0.9', 5432))
        first = make(port)
    first.settimeout(120)
    first.connect(('198.18.0.9', 5432))
    print(device.decode(), first.recv(100).decode(), flush=True)
"""
POD_AND_HOST = """
import socket, subprocess, sys, threading
from sidecar.capture.redirect import install_redirect
from sidecar.capture.redirect_table import RedirectRules, list_outbound_ports
outside, program = sys.argv[1:]
host = subprocess.Popen(['unshare', '-n', 'sh', '-c', 'echo up; exec sleep 600'], stdout=subprocess.PIPE)
there = ['nsenter', '-t', str(host.pid), '-n']
children = [host]
try:
    host.stdout.readline()
    for command in (
        'ip link set lo up', f'ip link add pod type veth peer name host netns {host.pid}',
        'ip addr add 198.18.0.2/15 dev pod', 'ip link set pod up',
        ' '.join(there) + ' ip addr add 198.18.0.9/15 dev host', ' '.join(there) + ' ip link set host up',
    ):
        subprocess.run(command.split(), check=True)
    children.append(subprocess.Popen([*there, sys.executable, '-c', outside], stdout=subprocess.PIPE))
    children[-1].stdout.readline()
    with socket.create_connection(('198.18.0.9', 5432)) as uncaptured:
        assert uncaptured.recv(100) == b'outside'
    def serve(listener):
        while True:
            connection, _ = listener.accept()
            connection.sendall(b'sidecar')
            connection.close()
    for port in list_outbound_ports(15001, 15006, 15008):
        threading.Thread(target=serve, args=[socket.create_server(('127.0.0.1', port))], daemon=True).start()
    install_redirect(RedirectRules(outbound_port=15001, inbound_port=15006, tunnel_port=15008, uid=1337))
    subprocess.run([sys.executable, '-c', program], check=True)
finally:
    for child in children:
        child.kill()
        child.wait()
"""


@pytest.mark.needs_root
def test_a_socket_bound_to_a_device_first_lets_no_other_one_past_the_redirect() -> None:
    """Conntrack remembered the first one's addresses as untranslated, and the second one's packets as the same."""
    done = subprocess.run(
        ["unshare", "-n", sys.executable, "-c", POD_AND_HOST, OUTSIDE, PROGRAM], capture_output=True, text=True
    )
    assert done.stdout == " sidecar\nlo sidecar\npod sidecar\n", done.stderr
