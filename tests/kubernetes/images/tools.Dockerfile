# What somebody might run in a pod: busybox with all its names, curl, openssl, nft, ip.
ARG BASE=docker.io/library/python:3.11-slim-bookworm
FROM ${BASE}
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends busybox-static curl iproute2 nftables openssl procps psmisc >/dev/null \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
 && mkdir -p /busybox && busybox --install -s /busybox
ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/busybox
CMD ["sleep", "infinity"]
