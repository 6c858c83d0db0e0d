# Bitcoin Core from its official archive, by hash.
FROM debian:bookworm-slim AS archive
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl
ARG VERSION=30.2
ARG SHA256_X86_64=6aa7bb4feb699c4c6262dd23e4004191f6df7f373b5d5978b5bcdd4bb72f75d8
ARG SHA256_AARCH64=73e76c14edc79808a0511c744d102ffbb494807ee90cbcba176568243254b532
RUN arch="$(uname -m)" \
  && case "$arch" in \
    x86_64) sha256="$SHA256_X86_64" ;; \
    aarch64) sha256="$SHA256_AARCH64" ;; \
    *) echo "no archive for $arch" >&2; exit 1 ;; \
  esac \
  && curl -fsSL -o /archive.tar.gz \
    "https://bitcoincore.org/bin/bitcoin-core-$VERSION/bitcoin-$VERSION-$arch-linux-gnu.tar.gz" \
  && echo "$sha256  /archive.tar.gz" | sha256sum -c - \
  && mkdir /bitcoin \
  && tar -xzf /archive.tar.gz -C /bitcoin --strip-components=1

FROM debian:bookworm-slim
COPY --from=archive /bitcoin/bin/bitcoind /bitcoin/bin/bitcoin-cli /usr/local/bin/
RUN useradd --system --uid 10002 --user-group --create-home --home-dir /var/lib/bitcoind bitcoin \
  && install -d -o bitcoin -g bitcoin -m 0700 /var/lib/bitcoind/.bitcoin
USER bitcoin
ENTRYPOINT ["bitcoind"]
