# The translation server (docs/server.md, "Container"): it translates with exported models, without fairseq.
#
#   docker build -t fairseq-resmlp .
#   docker run --cpus 2 -p 127.0.0.1:7860:7860 -v "$PWD/fast:/model:ro" fairseq-resmlp
FROM python:3.11-slim

# Index of the torch wheel. PyPI's own wheel needs a GPU's libraries, which are several gigabytes.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /source
COPY constraints.txt ./
RUN pip install --extra-index-url "$TORCH_INDEX" -c constraints.txt \
    torch numpy sentencepiece sentencex click safetensors \
    fastapi prometheus-client py3langid python-multipart uvicorn
COPY pyproject.toml setup.py README.md LICENSE ./
COPY fairseq_resmlp fairseq_resmlp
RUN pip install --no-deps .

RUN useradd --create-home --uid 1000 translator
USER translator
WORKDIR /home/translator

# A directory written by fairseq-resmlp export
VOLUME /model
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:7860/health', timeout=4)"]
ENTRYPOINT ["fairseq-resmlp"]
CMD ["serve", "/model", "--host", "0.0.0.0"]
