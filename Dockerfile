# vitdet as a container: `docker build -t vitdet .`, or with `--build-arg VARIANT=cuda` for NVIDIA GPUs.
#
#   docker run --rm -p 127.0.0.1:8000:8000 -v ./runs:/runs:ro vitdet serve /runs/…/best.ckpt --host 0.0.0.0
#
# `cpu` or `cuda`
ARG VARIANT=cpu
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# a user without rights, whose home holds downloaded weights
RUN useradd --create-home --uid 1000 vitdet

# PyTorch is the largest part, and changes least: it is a layer of its own, with the newest version that vitdet allows
FROM base AS cpu
# hadolint ignore=DL3013
RUN pip install --no-cache-dir 'torch>=2.10' torchvision --index-url https://download.pytorch.org/whl/cpu

FROM base AS cuda
# PyPI's files for Linux bring CUDA's libraries; the host needs its driver alone
# hadolint ignore=DL3013
RUN pip install --no-cache-dir 'torch>=2.10' torchvision

# hadolint ignore=DL3006
FROM ${VARIANT}
# with `serve,export` exported models are served, too
ARG EXTRAS=serve
COPY --from=wheel /wheels /wheels
RUN pip install --no-cache-dir "vitdet[${EXTRAS}] @ file://$(find /wheels -name '*.whl')"
USER 1000
WORKDIR /home/vitdet
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health/ready', timeout=4)"]
ENTRYPOINT ["vitdet"]
CMD ["serve", "--help"]
