"""A worker as one on a GPU answers, with no GPU and no torch: a model named die:PHASE ends it as that phase begins."""

import json
import os
import signal
import sys
import time
from typing import Any

MIB = 1 << 20
PHASES = {
    "peaks": ("building", "first step", "steady steps", "timing"),
    "ledger": ("building", "step 1 of 3", "step 3 of 3", "ledger"),
}
PEAKS = {
    "parameters": 7,
    "peak_allocated_bytes": 100 * MIB,
    "cold_peak_allocated_bytes": 90 * MIB,
    "peak_reserved_bytes": 120 * MIB,
    "step_time_seconds": 0.5,
    "tokens_per_second": 48.0,
}
GPU = {"gpu": "NVIDIA H200", "gpu_total_bytes": 1 << 37, "compute_capability": "9.0"}
VALUES: dict[str, dict[str, Any]] = {
    "peaks": {"peaks": PEAKS, "capped": None, "link": None, "gpu": GPU},
    "ledger": {
        "ledger": {"parameters": 60 * MIB, "activations_saved": 40 * MIB},
        "modules": [{"module": "head", "ledger": {"parameters": 60 * MIB}}],
        "timeline": [{"phase": "backward", "ledger": {"parameters": 60 * MIB}}],
    },
}


def main() -> None:
    """Serves requests until stdin ends."""
    say({"kind": "hello", "environment": {"muse_bench": "0.1.0", "torch": "2.13.0"}, "cuda_unavailable": None})
    for line in sys.stdin:
        request = json.loads(line)
        task, model = request["task"], request["case"]["model"]
        for phase in PHASES[task]:
            say({"kind": "phase", "text": phase})
            if model == f"die:{task}-{phase.split()[0]}-{phase.split()[-1]}":
                os.kill(os.getpid(), signal.SIGKILL)
            if phase == "timing":
                sys.stdin.readline()
            time.sleep(0.03)  # a few samples of NVML
        say({"kind": "result", "status": "ok", "reason": None, "values": VALUES[task]})


def say(message: dict[str, Any]) -> None:
    """One line of the protocol."""
    print(json.dumps(message), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
