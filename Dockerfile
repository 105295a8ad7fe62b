# syntax=docker/dockerfile:1
# Gravity and nothing else: no shell, no package manager, not root.
#
#   docker build -t gravity .
#   docker run --rm -e GRAVITY_STORE=s3://traces -e AWS_REGION=eu-central-1 gravity worker

# Its gcc builds the C and assembler of zstd, ring and blake3, which need nothing else.
FROM rust:1.89.0-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked && cp target/release/gravity /gravity

# glibc, libgcc and CA certificates, as the user `nonroot` (65532). Distroless has no tags of versions: this is the most
# that a tag says, and it moves on with Debian 12's fixes. Who must build the same image again pins its digest here, as
# `docker buildx imagetools inspect` shows it.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /gravity /usr/local/bin/gravity
# A worker that is told nothing else is reached from outside its container, and keeps its temporary files in /tmp.
# One arena: glibc keeps what is freed in each, up to a sixth more memory for no more speed (packed, a batch of 1 GiB).
ENV GRAVITY_LISTEN=0.0.0.0:9464 MALLOC_ARENA_MAX=1
EXPOSE 9464
ENTRYPOINT ["gravity"]
CMD ["worker"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --start-interval=1s CMD ["gravity", "health"]
