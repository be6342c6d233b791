# The service in an image, as an ordinary user, with everything that lasts in /data.
#
#   docker build -t kernelsvc .
#   export KERNELSVC_API_KEY=$(openssl rand -hex 24)
#   docker run --init --stop-timeout 40 -p 127.0.0.1:8787:8787 -v kernelsvc:/data \
#       --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
#       --security-opt systempaths=unconfined -e KERNELSVC_API_KEY kernelsvc
#
# Inside the container the service listens on every address, so it needs a key to start: that of
# KERNELSVC_API_KEY, or one that `kernelsvc keys create NAME` has made in /data before. The three
# options let it make the sandbox of each kernel, which is stricter than what they take away; without
# them it does not start, unless it is told --allow-unsandboxed. Publish the port on loopback, as
# above, or put a proxy with TLS in front of it. --init reaps what a killed kernel may leave;
# --stop-timeout leaves time for the runs that are going on (drain_timeout, 30 s).

FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/kernelsvc
COPY pyproject.toml README.md LICENSE ./
COPY kernelsvc kernelsvc
RUN /opt/kernelsvc/bin/pip install --no-cache-dir '.[datascience,languages,postgresql]'

FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap libseccomp2 \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --create-home kernelsvc \
    && install --directory --owner=kernelsvc --group=kernelsvc --mode=700 /data
COPY --from=build /opt/kernelsvc /opt/kernelsvc
ENV PATH=/opt/kernelsvc/bin:$PATH \
    KERNELSVC_PRELOAD=numpy,pandas,matplotlib \
    KERNELSVC_DATA_DIR=/data \
    KERNELSVC_BASE_URL=http://127.0.0.1:8787
USER kernelsvc
WORKDIR /home/kernelsvc
VOLUME /data
EXPOSE 8787
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8787/health/ready', timeout=4)"]
CMD ["kernelsvc", "serve", "--host", "0.0.0.0", "--port", "8787"]
