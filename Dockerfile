# qonnx and ONNX Runtime on CUDA, in layers: what changes seldom comes first.
#
# Every RUN is one script of scripts/, which runs the same way on a machine without Docker: `scripts/prove-layers.sh` plays this
# file on a bare Debian. One instruction a line, so that it and tests/it/services.rs can read it.

# Builds: compiler, Rust, ONNX Runtime's CUDA build, qonnx. Debian's C library is older than the one below, so the binary runs there.
FROM debian:bookworm-slim AS build
WORKDIR /qonnx
COPY scripts/install-packages.sh scripts/
RUN scripts/install-packages.sh build
COPY scripts/install-rust.sh scripts/
RUN scripts/install-rust.sh
ENV QONNX_CACHE=/opt/qonnx/cache
COPY scripts/get-onnxruntime.sh scripts/
RUN scripts/get-onnxruntime.sh --cuda
COPY . ./
RUN scripts/install-qonnx.sh /opt/qonnx

# Runs: CUDA 13 with cuBLAS and cuDNN, certificates, a user; then the library and the binary, and nothing to build with.
FROM nvidia/cuda:13.0.2-cudnn-runtime-ubuntu24.04 AS study
WORKDIR /study
COPY scripts/install-packages.sh scripts/make-user.sh scripts/
RUN scripts/install-packages.sh run
RUN scripts/make-user.sh
COPY --from=build /opt/qonnx/cache /opt/qonnx/cache
COPY --from=build /opt/qonnx/bin/qonnx /usr/local/bin/qonnx
COPY fixtures fixtures
COPY calibration calibration
COPY benches benches
ENV QONNX_CACHE=/opt/qonnx/cache
ENV HF_HOME=/cache/huggingface
ENV HOME=/study
USER qonnx
VOLUME ["/cache/huggingface", "/study/results"]
CMD ["qonnx", "--help"]
