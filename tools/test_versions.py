"""Run the tests in a fresh environment with the oldest or the newest versions that pyproject.toml allows. Needs uv.

    python tools/test_versions.py lowest-direct | highest   [--python 3.12] [pytest options]

torch is the exception: the newest Linux wheel brings several GB of CUDA, so `highest` keeps the pinned one. The oldest is torch's floor
where the index has a build of it that runs here; else the pinned one, and that is said.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command, **more) -> int:
    """A command, shown."""
    print("+", *command, flush=True)
    return subprocess.run(list(map(str, command)), cwd=ROOT, check=False, **more).returncode


def main() -> int:
    """Resolve, install, test."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in ("lowest-direct", "highest"):
        print(__doc__)
        return 2
    strategy, rest = arguments[0], arguments[1:]
    python = sys.executable
    if "--python" in rest:
        at = rest.index("--python")
        python, rest = rest[at + 1], rest[:at] + rest[at + 2 :]
    pin = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        pins, wanted, env = folder / "torch.txt", folder / "versions.txt", folder / "env"
        pins.write_text(pin + "\n")
        resolved = run("uv", "pip", "compile", "pyproject.toml", "--extra", "course", "--extra", "test", "--resolution", strategy, "-c", pins,
                       "--no-annotate", "--no-header", "-q", "--python", python, "-o", wanted)  # fmt: skip
        if resolved:
            return resolved
        lines = [
            v for v in wanted.read_text().splitlines() if not v.startswith(("nvidia", "cuda", "triton", "mil-tutorial"))
        ]
        wanted.write_text("\n".join(lines) + "\n")
        print("\n".join(lines))
        if run("uv", "venv", "-q", "--seed", "--python", python, env):
            return 1
        inside = env / "bin" / "python"
        # --no-deps: CUDA's packages are left out, and the list is complete.
        if run(inside, "-m", "pip", "install", "-q", "--no-deps", "-r", wanted) or run(
            inside, "-m", "pip", "install", "-q", "--no-deps", "."
        ):
            return 1
        return run(inside, "-m", "pytest", "-q", *rest)


if __name__ == "__main__":
    sys.exit(main())
