# The CA of the previous release (tests/releases), on today's packages.
ARG BASE
FROM ${BASE}
USER 0
RUN rm -rf /opt/touchmark/shared /opt/touchmark/ca
ADD *.tar.xz /opt/touchmark/
RUN rm -rf /opt/touchmark/sidecar /opt/touchmark/manifests && chmod -R go=rX /opt/touchmark
USER 10001:10001
