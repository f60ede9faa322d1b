# The base images can be replaced: --build-arg BUILD_IMAGE=... --build-arg RUNTIME_IMAGE=...
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim
# cpu, or cuda: libtorch's other half and NVIDIA's libraries besides, 3.5 GB. With them it trains on a
# GPU where there is one; the driver is the host's.
ARG DEVICE=cpu

FROM ${BUILD_IMAGE} AS libtorch-cpu
WORKDIR /src
# Fetched again only when the scripts change.
COPY scripts/system-packages scripts/get-libtorch scripts/
RUN scripts/system-packages build \
    && EASQ_CACHE=/var/cache/easq scripts/get-libtorch \
    && mkdir -p /opt/easq/lib \
    && cp build/libtorch/lib/*.so* /opt/easq/lib/ \
    && cp -r build/libtorch/licenses /opt/easq/

FROM libtorch-cpu AS libtorch-cuda
RUN scripts/get-libtorch --cuda /opt/easq/lib \
    && cp -r /opt/easq/lib/licenses /opt/easq/ \
    && rm -r /opt/easq/lib/licenses

FROM libtorch-cpu AS build
COPY . .
# The commit that the program names as its own: --build-arg EASQ_REVISION=...
ARG EASQ_REVISION
RUN cargo build --release --locked \
    && install -D target/release/easq /opt/easq/bin/easq \
    && strip --strip-debug /opt/easq/bin/easq

FROM libtorch-${DEVICE} AS libtorch

FROM ${RUNTIME_IMAGE}
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        ca-certificates libssl3 libstdc++6 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 easq \
    && useradd --uid 10001 --gid easq --no-create-home --home-dir / --shell /usr/sbin/nologin easq \
    # For `easq follow --dir /model`: a new volume that is mounted here gets its owner. Users that an
    # orchestrator makes up are of the group root.
    && install --directory --owner easq --group root --mode 0775 /model
# The binary looks for libtorch in ../lib beside it.
COPY --from=libtorch /opt/easq /opt/easq
COPY --from=build /opt/easq/bin /opt/easq/bin
COPY LICENSE /opt/easq/licenses/easq/
ENV PATH=/opt/easq/bin:$PATH EASQ__TELEMETRY__LISTEN=0.0.0.0:9464
ARG EASQ_REVISION
LABEL org.opencontainers.image.title=easq org.opencontainers.image.revision=$EASQ_REVISION
USER 10001:10001
EXPOSE 9464
# Where it listens, asked by bash itself: the image needs no HTTP client.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/${EASQ__TELEMETRY__LISTEN##*:} && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["easq"]
CMD ["run"]
