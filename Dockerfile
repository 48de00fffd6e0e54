# syntax=docker/dockerfile:1
# Targets: `server` (API and pages), `trainer` (CPU), `trainer-gpu` (NVIDIA).

FROM rust:1.95-bookworm AS build
# Debian's stable packages are taken as they are: a pinned one vanishes with its next fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-pip nodejs npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
# What is fetched changes rarely: it has a layer of its own.
COPY scripts scripts
ENV LUTHIER_CACHE=/cache
RUN python3 scripts/setup.py
COPY . .
RUN cargo build --release --locked --workspace --bins \
    && python3 scripts/dist.py --folder /luthier

FROM build AS build-gpu
RUN LUTHIER_CUDA=1 python3 scripts/setup.py \
    && python3 scripts/dist.py --folder /luthier-gpu

FROM debian:bookworm-slim AS base
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgcc-s1 libstdc++6 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --create-home --home-dir /data --shell /usr/sbin/nologin luthier \
    # A new volume takes these folders' owner.
    && install -d -o luthier -g luthier /data/objects /data/work
USER 10001
WORKDIR /data
VOLUME /data
ENV PATH=/opt/luthier/bin:$PATH

FROM base AS server
COPY --from=build /luthier/bin/luthier /opt/luthier/bin/luthier
COPY --from=build /luthier/postgres /opt/luthier/postgres
COPY --from=build /luthier/samples /opt/luthier/samples
COPY --from=build /luthier/licences /opt/luthier/licences
ENV LUTHIER_DATA=/data LUTHIER_LISTEN=0.0.0.0:8080 LUTHIER_TRAINER=none
EXPOSE 8080
ENTRYPOINT ["luthier"]
CMD ["serve"]

FROM base AS trainer
COPY --from=build /luthier/bin/luthier-trainer /opt/luthier/bin/luthier-trainer
COPY --from=build /luthier/lib /opt/luthier/lib
COPY --from=build /luthier/licences /opt/luthier/licences
ENTRYPOINT ["luthier-trainer"]
CMD ["agent"]

FROM base AS trainer-gpu
COPY --from=build-gpu /luthier-gpu/bin/luthier-trainer /opt/luthier/bin/luthier-trainer
COPY --from=build-gpu /luthier-gpu/lib /opt/luthier/lib
COPY --from=build-gpu /luthier-gpu/licences /opt/luthier/licences
# The driver's own libraries come from the host.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
ENTRYPOINT ["luthier-trainer"]
CMD ["agent"]
