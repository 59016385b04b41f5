# The same web server as another program: bytes after an ELF file's end change its digest and nothing else.
ARG BASE
FROM ${BASE}
RUN printf 'next' >> /usr/sbin/nginx
