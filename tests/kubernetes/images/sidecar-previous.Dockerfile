# The sidecar of the previous release (tests/releases), on today's packages.
ARG BASE
FROM ${BASE}
USER 0
RUN rm -rf /opt/touchmark/shared /opt/touchmark/sidecar
ADD *.tar.xz /opt/touchmark/
RUN rm -rf /opt/touchmark/ca /opt/touchmark/manifests && chmod -R go=rX /opt/touchmark
USER 1337:1337
