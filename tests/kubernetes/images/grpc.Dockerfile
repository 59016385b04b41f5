# Python with gRPC and its health service (grpc.health.v1), as applications have them.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE} AS build
COPY grpc.lock /build/
RUN python3 -m venv /build/venv \
 && /build/venv/bin/pip install --quiet --disable-pip-version-check --only-binary :all: --require-hashes --no-deps \
        --target /build/packages -r /build/grpc.lock
FROM ${BASE}
COPY --from=build /build/packages /opt/packages
ENV PYTHONPATH=/opt/packages
CMD ["python3"]
