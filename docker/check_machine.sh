#!/bin/sh
# Says in one line why this machine can't run the CPU build, and how to mend it.
python=${1:-python3.11}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 12))' 2>/dev/null; then
  echo "setup: '$python' is not Python 3.11, which the lock file is for; install it and run: make PYTHON=/path/to/python3.11" >&2
  exit 2
fi
if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
  echo "setup: the CPU lock file is for Linux on x86_64, this is $(uname -s) on $(uname -m); use a Linux x86_64 machine or the image in docker/" >&2
  exit 2
fi
if ! grep -qw avx2 "${CPUINFO:-/proc/cpuinfo}"; then
  echo "setup: this CPU has no AVX2, which vLLM's CPU build needs; use a machine that has it (Intel Haswell or newer, AMD Zen or newer), or a GPU" >&2
  exit 2
fi
