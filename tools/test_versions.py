"""Run the tests in a fresh environment with the oldest or the newest versions that pyproject.toml allows. Needs uv.

    python tools/test_versions.py lowest-direct | highest   [--python 3.12] [--torch 2.13.0] [pytest options]

On Linux torch brings its CUDA libraries: 3 GB to fetch, 6 GB on the disk while the tests run. `--torch` takes that
version and leaves the libraries out, for an index that has a CPU build of it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA = ("cuda-", "nvidia-", "triton")


def run(*command) -> int:
    """A command, shown."""
    print("+", *command, flush=True)
    return subprocess.run(list(map(str, command)), cwd=ROOT, check=False).returncode


def main() -> int:
    """Resolve, install, test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", choices=["lowest-direct", "highest"])
    parser.add_argument("--python", default=sys.executable, help="version or path of the interpreter")
    parser.add_argument("--torch", help="version of torch to take, without CUDA's libraries")
    args, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        wanted, pins, env = Path(folder, "versions.txt"), Path(folder, "pins.txt"), Path(folder, "env")
        pins.write_text(f"torch=={args.torch}\n" if args.torch else "", encoding="utf-8")
        extras, quiet = ["--extra", "course", "--extra", "test"], ["--no-annotate", "--no-header", "-q"]
        limits = ["--resolution", args.versions, "-c", pins, "--python", args.python]
        if run("uv", "pip", "compile", "pyproject.toml", *extras, *limits, *quiet, "-o", wanted):
            return 1
        left_out = CUDA if args.torch else ()
        lines = wanted.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not line.startswith(("mil-tutorial", *left_out))]
        wanted.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print("\n".join(lines))
        if run("uv", "venv", "-q", "--seed", "--python", args.python, env):
            return 1
        inside = env / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        # No dependencies: the list is complete.
        install = ["uv", "pip", "install", "-q", "--no-deps", "--python", inside]
        if run(*install, "-r", wanted) or run(*install, "."):
            return 1
        return run(inside, "-m", "pytest", "-q", "-m", "not heavy", *rest)


if __name__ == "__main__":
    sys.exit(main())
