# The project with all that make setup installs: docs/container.md.
# One argument decides what PyTorch computes on. Without it, its wheels for Linux bring CUDA; with the address of its index
# of wheels for CPUs, no CUDA: docker build --build-arg TORCH_INDEX=<address> -t kdcore .
ARG PYTHON_VERSION=3.11
FROM python:${PYTHON_VERSION}-slim
ARG TORCH_INDEX=
# g++ is for train.compile. git works in a folder of another user, such as one that is mounted, only where it is told to.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ git make \
 && rm -rf /var/lib/apt/lists/* \
 && git config --system --add safe.directory /kdcore
WORKDIR /kdcore
# What decides which packages are installed comes first, so that an edit of the code installs nothing anew.
COPY Makefile pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir kdcore \
 && touch kdcore/__init__.py \
 && PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL="${TORCH_INDEX}" make setup
COPY . .
RUN touch .venv/.installed
ENV PATH=/kdcore/.venv/bin:${PATH}
CMD ["bash"]
