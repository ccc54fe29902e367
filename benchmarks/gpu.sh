#!/usr/bin/env bash
# Run the proofs on a GPU: `bash benchmarks/gpu.sh FOLDER`, in the root of the repository.
# Nothing is installed. python3 needs torch, click, tabulate, numpy, safetensors, ml_dtypes, pytest
# and hypothesis. It ends within 6 minutes; FOLDER/gpu.json and gpu.md are rewritten after each check.
set -uo pipefail
export PYTHONPATH=$PWD PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv || true
exec timeout 360 python3 -m benchmarks.gpu --device cuda --out "${1:?name a folder}" --budget 330
