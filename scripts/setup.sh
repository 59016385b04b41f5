#!/usr/bin/env bash
# Set this machine up for `make demo`, `make test` and `make bench`: .venv with the locked dependencies, checked by
# hash, and, where root and apt are there, the system packages that the tests and the demo use. Runs in a moment when
# nothing has changed. Argument `bench`: also what the comparison with other proxies needs.
# Argument `browser`: Chromium alone, for the tests of `touchmark ui`; without it they are left out.
# Downloads are cached by pip and apt themselves, outside the clone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

purpose="${1:-}"
venv="${VENV:-.venv}"

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: ✗ %s\n' "$*" >&2; exit 1; }

[[ "$(uname -s)" == Linux ]] || fail "Touchmark's data path needs Linux (sock_diag, nftables, /proc); this is $(uname -s)"

# ---- A browser -------------------------------------------------------------------------------------------------------
# Debian's own: Ubuntu's package of that name is a snap, which doesn't start in a container.
if [[ "$purpose" == browser ]]; then
    if ! command -v chromium >/dev/null; then
        if [[ "$(id -u)" == 0 ]] && grep -qs '^ID=debian' /etc/os-release; then
            say "installing Chromium with apt-get, for the tests of touchmark ui"
            export DEBIAN_FRONTEND=noninteractive
            { apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } \
                >/dev/null 2>&1 || say "apt-get couldn't install chromium"
        fi
        command -v chromium >/dev/null || say "no Chromium: the page's tests in a browser are left out, and named"
    fi
    exit 0
fi

# ---- Python ----------------------------------------------------------------------------------------------------------
is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [[ -n "${PYTHON:-}" ]]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON isn't there"
        is_recent "$PYTHON" || fail "PYTHON=$PYTHON is $("$PYTHON" --version 2>&1); Touchmark needs Python 3.11 or newer"
        echo "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$candidate" >/dev/null && is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    if command -v python3 >/dev/null; then
        fail "python3 is $(python3 --version 2>&1); Touchmark needs Python 3.11 or newer (PYTHON=/path/to/python3.11 names another)"
    fi
    fail "no python3 here; install Python 3.11 or newer"
}

# ---- System packages -------------------------------------------------------------------------------------------------
missing_packages() {
    local pair
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || echo "${pair##*:}"
    done
}

# No nginx for the demo: Debian's package starts a server on port 80. The demo takes it where it is, else Python's.
tools=(nft:nftables iptables:iptables ip:iproute2 sysctl:procps curl:curl openssl:openssl unshare:util-linux)
if [[ "$purpose" == bench ]]; then
    tools+=(nginx:nginx haproxy:haproxy stunnel:stunnel4 wrk:wrk)
fi
export PATH="$PATH:/usr/sbin:/sbin"
mapfile -t packages < <(missing_packages "${tools[@]}")
if [[ "$purpose" == bench ]] && ! compgen -G '/usr/lib/nginx/modules/ngx_stream_module.so' >/dev/null; then
    packages+=(libnginx-mod-stream)
fi
# Debian keeps the server's programs off the PATH, and would start a server of its own: the tests start theirs.
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && ! command -v initdb >/dev/null; then
    packages+=(postgresql)
    if [[ "$(id -u)" == 0 && ! -e /etc/postgresql-common/createcluster.conf ]] && command -v apt-get >/dev/null; then
        mkdir -p /etc/postgresql-common
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    fi
fi
python="$(find_python)"
if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
    packages+=("python$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')-venv")
fi

# What the native engine is compiled with. Optional: without it Python moves the bytes.
compilers=()
if ! command -v "${CC:-cc}" >/dev/null; then
    compilers+=(gcc libc6-dev)
fi
if ! "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'; then
    compilers+=("python$("$python" -c 'import sys; print(f"{sys.version_info[0]}.{sys.version_info[1]}")')-dev")
fi
if ((${#compilers[@]})) && [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then
    say "installing a compiler with apt-get: ${compilers[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y -qq --no-install-recommends "${compilers[@]}" >/dev/null 2>&1 || {
        apt-get update -qq >/dev/null
        apt-get install -y -qq --no-install-recommends "${compilers[@]}" >/dev/null
    } || say "apt-get couldn't install: ${compilers[*]}"
fi

if ((${#packages[@]})); then
    if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then
        say "installing system packages with apt-get: ${packages[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null 2>&1 || {
            apt-get update -qq >/dev/null
            apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
        } || fail "apt-get couldn't install: ${packages[*]}"
    else
        say "not installed, because that takes root and apt-get: ${packages[*]} (what needs them is left out, and named)"
    fi
fi

# ---- .venv -----------------------------------------------------------------------------------------------------------
lock="requirements-dev.lock"
[[ "$purpose" == bench ]] && lock="requirements-bench.lock"
if [[ -x "$venv/bin/python" ]] && ! is_recent "$venv/bin/python"; then
    say "$venv holds a Python older than 3.11 or a broken one; making it again"
    rm -rf "$venv"
fi
if [[ ! -x "$venv/bin/python" ]]; then
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || fail "$python can't make a virtual environment (Debian: apt install python3-venv)"
fi

stamp="$venv/.installed-${lock%.lock}"
current="$(cat "$lock" pyproject.toml | sha256sum | cut -d ' ' -f 1) $PWD"
if [[ "$(cat "$stamp" 2>/dev/null || true)" != "$current" ]]; then
    say "installing $lock into $venv (each file is checked by hash)"
    # --no-deps: the lock is the whole closure. With dependencies, pip looks for `coverage[toml]` among all versions, and
    # the day a newer one than the lock's appears it stops, since that has no hash here.
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --require-hashes --no-deps -r "$lock" ||
        fail "pip couldn't install $lock; its message is above"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation -e . ||
        fail "pip couldn't install this clone; its message is above"
    echo "$current" >"$stamp"
fi

# ---- The native engine -----------------------------------------------------------------------------------------------
# In a moment where it is current. Its own message says what is missing.
if ! "$venv/bin/python" -m sidecar.native.build; then
    say "Python moves the bytes instead, with the same behaviour and at more cost"
fi

# ---- What an ordinary user goes without ------------------------------------------------------------------------------
if [[ "$(id -u)" != 0 && -z "$purpose" ]]; then
    say "not root: tests that need their own network namespaces or capabilities are left out; the last lines name them"
fi
