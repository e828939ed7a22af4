# syntax=docker/dockerfile:1
#   docker build --target gateway -t ganforge-gateway .     serves on CPUs, or in front of Triton
#   docker build --target triton -t ganforge-triton .       Triton on a GPU, over the same repository
ARG PYTHON=python:3.12-slim-bookworm
ARG TRITON=nvcr.io/nvidia/tritonserver:26.08-py3

FROM ${PYTHON} AS build
WORKDIR /src
COPY deploy/requirements.lock deploy/build.lock deploy/
RUN python -m venv --without-pip /opt/ganforge \
    && pip --python /opt/ganforge install --no-cache-dir --only-binary :all: \
        --require-hashes -r deploy/requirements.lock \
    && pip install --no-cache-dir --only-binary :all: --require-hashes -r deploy/build.lock
COPY . .
RUN hatchling build -t wheel \
    && pip --python /opt/ganforge install --no-cache-dir --no-deps dist/*.whl

FROM ${PYTHON} AS gateway
COPY --from=build /opt/ganforge /opt/ganforge
# onnxruntime's packages send events to Microsoft unless they are told not to
ENV PATH=/opt/ganforge/bin:$PATH ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080 8081 8082
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD \
    ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/livez', timeout=4)"]
ENTRYPOINT ["ganforge"]
CMD ["serve", "--repository=/models", "--engine=ort", "--host=0.0.0.0", \
     "--admin-host=0.0.0.0", "--admin-port=8082", "--keys=/run/secrets/ganforge/keys.yaml", \
     "--drain-s=5", "--log-format=json"]

# Its own HTTP is for probes alone. gRPC is for the gateway, which shares the network namespace;
# where it doesn't, CMD says so.
FROM ${TRITON} AS triton
ENV ORT_DISABLE_TELEMETRY=1
USER 1000:1000
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10m --retries=3 CMD \
    ["curl", "-sf", "http://127.0.0.1:8000/v2/health/live"]
ENTRYPOINT ["tritonserver", "--model-repository=/models", "--model-control-mode=explicit", \
     "--load-model=*", "--disable-auto-complete-config", "--strict-readiness=true", \
     "--exit-on-error=false", "--exit-timeout-secs=30", "--http-address=127.0.0.1", \
     "--metrics-address=0.0.0.0"]
CMD ["--grpc-address=127.0.0.1"]
