# One image; its command picks what runs: `serve` by default, any other command of headgate by naming it.
#   docker build -t headgate .
#   docker run -p 8080:8080 -p 8081:8081 -v headgate-data:/data headgate
FROM python:3.11-slim AS build
WORKDIR /src
COPY pyproject.toml README.md requirements.lock ./
COPY gateway ./gateway
COPY adapters ./adapters
RUN python -m venv /opt/headgate && /opt/headgate/bin/pip install --no-cache-dir --disable-pip-version-check -c requirements.lock '.[grpc,notices,tracing]'

FROM python:3.11-slim
RUN useradd --system --uid 10001 --home-dir /data --shell /usr/sbin/nologin headgate && install -d -o headgate -g headgate -m 0700 /data
COPY --from=build /opt/headgate /opt/headgate
# What a container needs otherwise than a shell; every setting can be given so, see docs/operations.md.
ENV PATH=/opt/headgate/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HEADGATE_DATA_DIR=/data \
    HEADGATE_SERVING_HOST=0.0.0.0 \
    HEADGATE_CONTROL_HOST=0.0.0.0
USER headgate
WORKDIR /data
VOLUME /data
# Predictions and the admin API. The admin API asks for a token; publish its port only where operators are.
EXPOSE 8080 8081
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/v2/health/ready', timeout=2)"]
ENTRYPOINT ["headgate"]
CMD ["serve", "--workers", "2"]
