#!/bin/sh
# What both recipes (Dockerfile, container/titan-neuro.def) run as root, in Debian 12 with the project in /opt/titan-neuro: the
# environment of `make install`, which has exactly the packages of constraints.txt, and an account that is not root's.
set -eu
cd /opt/titan-neuro
export DEBIAN_FRONTEND=noninteractive
needed_to_build="g++ make python3-dev"
apt-get update -qq
# shellcheck disable=SC2086
apt-get install --yes -qq --no-install-recommends ca-certificates git openssh-client python3 python3-venv $needed_to_build
make install PYTHON=/usr/bin/python3
# shellcheck disable=SC2086
apt-get purge --yes -qq --auto-remove $needed_to_build
rm -rf /var/lib/apt/lists/* /root/.cache build
# Datasets are mounted from outside, where other accounts own them: git would refuse to read those of DataLad.
git config --system --add safe.directory '*'
useradd --create-home titan
