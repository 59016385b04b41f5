# A PostgreSQL whose data is made when the image is built: database, user and password "shop".
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}
# UID 999 as in the public image, so that manifests can name it.
RUN groupadd --system --gid 999 postgres \
 && useradd --system --uid 999 --gid 999 --home-dir /var/lib/postgresql --shell /bin/bash postgres \
 && apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends postgresql postgresql-client >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /etc/postgresql /var/lib/postgresql/*/main \
        /usr/lib/*/libLLVM* /usr/lib/llvm-* /usr/lib/postgresql/*/lib/bitcode /usr/lib/postgresql/*/lib/llvmjit* /usr/share/locale
ENV PGDATA=/var/lib/postgresql/data
RUN ln -s /usr/lib/postgresql/*/bin /opt/postgresql
ENV PATH=/opt/postgresql:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
USER postgres
RUN initdb --wal-segsize=1 --auth-host=scram-sha-256 --auth-local=trust --encoding=UTF8 >/dev/null \
 && echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf" \
 && printf "listen_addresses = '*'\\njit = off\\n" >> "$PGDATA/postgresql.conf" \
 && pg_ctl start --silent --wait --options "-c listen_addresses= -c unix_socket_directories=/tmp" \
 && psql -q -h /tmp -d postgres -c "CREATE USER shop PASSWORD 'shop'" -c 'CREATE DATABASE shop OWNER shop' \
 && pg_ctl stop --silent --mode fast
STOPSIGNAL SIGINT
EXPOSE 5432
CMD ["postgres"]
