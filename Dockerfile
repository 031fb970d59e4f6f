# syntax=docker/dockerfile:1
# One target for each process of a deployment:
#
#   docker build --target service -t rootstock-service:0.1.0 .     the API and the migrations; no torch
#   docker build --target trainer -t rootstock-trainer:0.1.0 .     the worker; CUDA from the torch wheels
#   docker build --target serving -t rootstock-serving:0.1.0 .     vLLM's official image and our adapter plugin
#
# All three start as `python -m service|trainer|serving`, take every setting from ROOTSTOCK_* variables and run as
# user 10001 with a read-only root: only /data and /tmp are written to. Nothing secret is ever built in. The lock
# files carry the hashes of Linux x86-64 wheels.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VLLM_IMAGE=vllm/vllm-openai:v0.32.0


# What every image of ours has in common.
FROM ${PYTHON_IMAGE} AS runtime
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/app \
    PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    ROOTSTOCK_DATA_DIR=/data \
    ROOTSTOCK_LOG_FORMAT=json
RUN install -d -m 0770 -o 10001 -g 10001 /data
WORKDIR /app


FROM ${PYTHON_IMAGE} AS packages
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
WORKDIR /build


FROM packages AS service-packages
COPY requirements/service.lock.txt ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --require-hashes -r service.lock.txt


FROM runtime AS service
COPY --from=service-packages /opt/venv /opt/venv
COPY rootstock ./rootstock
COPY service ./service
ENV ROOTSTOCK_HOST=0.0.0.0
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('ROOTSTOCK_PORT', '8000') + '/healthz', timeout=4)"]
# `docker run IMAGE migrate` brings the schema to this version.
ENTRYPOINT ["python", "-m", "service"]


FROM packages AS trainer-packages
COPY requirements/trainer-cuda.lock.txt ./
# These wheels bring CUDA's libraries; the host gives only the driver, through NVIDIA's container runtime. A CUDA base
# image would carry the same gigabytes twice.
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --require-hashes -r trainer-cuda.lock.txt


FROM runtime AS trainer
COPY --from=trainer-packages /opt/venv /opt/venv
COPY examples/base/rootstock-tiny ./examples/base/rootstock-tiny
COPY rootstock ./rootstock
COPY trainer ./trainer
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    HF_HOME=/data/huggingface
USER 10001:10001
# No HEALTHCHECK: a worker that falls silent loses its lease, and restarting one would throw a training away.
ENTRYPOINT ["python", "-m", "trainer"]


# Made apart and laid on the Python path, so that not one package of the vLLM image changes. All of it is pure Python,
# hence independent of that image's interpreter. The entry point in our metadata is how vLLM finds the plugin.
FROM packages AS serving-packages
COPY requirements/build.lock.txt requirements/vllm-cuda.lock.txt ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --require-hashes -r build.lock.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    awk '/^[a-z0-9]/ {keep = 0} /^(boto3|botocore|jmespath|python-dateutil|s3transfer|six)==/ {keep = 1} keep' \
        vllm-cuda.lock.txt > storage.lock.txt \
    && pip install --no-deps --require-hashes --target /opt/rootstock -r storage.lock.txt
COPY pyproject.toml README.md ./
COPY rootstock ./rootstock
COPY service ./service
COPY trainer ./trainer
COPY serving ./serving
RUN pip install --no-deps --no-build-isolation --target /opt/rootstock . \
    && rm -rf /opt/rootstock/service /opt/rootstock/trainer /opt/rootstock/bin
# The settings' default base model is looked for beside the packages.
COPY examples/base/rootstock-tiny /opt/rootstock/examples/base/rootstock-tiny


FROM ${VLLM_IMAGE} AS serving
COPY --from=serving-packages /opt/rootstock /opt/rootstock
RUN install -d -m 0770 -o 10001 -g 10001 /data
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONPATH=/opt/rootstock \
    HOME=/tmp \
    HF_HOME=/data/huggingface \
    VLLM_CACHE_ROOT=/data/vllm \
    ROOTSTOCK_DATA_DIR=/data \
    ROOTSTOCK_LOG_FORMAT=json \
    ROOTSTOCK_VLLM_HOST=0.0.0.0
WORKDIR /data
USER 10001:10001
EXPOSE 8001
# Loading a large model takes minutes.
HEALTHCHECK --interval=15s --timeout=10s --start-period=15m --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ.get('ROOTSTOCK_VLLM_PORT', '8001') + '/health', timeout=9)"]
ENTRYPOINT ["python3", "-m", "serving"]
