# A BIDS-App:
#
#   docker build --tag titan-neuro .
#   docker run --rm --user "$(id -u):$(id -g)" --volume BIDS_DIR:/data:ro --volume OUTPUT_DIR:/out titan-neuro /data /out participant
#
# docs/install.md says more, also of Apptainer. Other subcommands: docker run --entrypoint titan-neuro ...
FROM debian:bookworm-20250929-slim
COPY Makefile constraints.txt pyproject.toml setup.py README.md LICENSE /opt/titan-neuro/
COPY container /opt/titan-neuro/container
COPY pipelines /opt/titan-neuro/pipelines
COPY titan_neuro /opt/titan-neuro/titan_neuro
RUN /opt/titan-neuro/container/setup.sh
# Whoever runs it with --user has no home inside: what libraries cache goes where anybody may write.
ENV PATH=/opt/titan-neuro/.venv/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp
USER titan
WORKDIR /tmp
ENTRYPOINT ["titan-neuro", "run"]
