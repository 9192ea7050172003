#!/bin/sh
# Every package of a lock file, and nothing else, in a new virtual environment: install.sh FOLDER LOCK [PYTHON]
set -eu
folder=$1 lock=$2 python=${3:-python3.11}
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --no-cache-dir --no-deps --require-hashes --requirement "$lock"
# Python writes it again where it is used; here it would double the image.
find "$folder" -depth -type d -name __pycache__ -exec rm -rf {} +
