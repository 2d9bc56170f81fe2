"""One zip for a room without a network: sources, website, workshop, drawn slides, wheels. `make bundle` calls this.

With `--wheels` the wheels for this platform are downloaded and put in, so that a machine with nothing but Python can
install the course.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

from tqdm.auto import tqdm

from mil_tutorial.fixture import fixture_root

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
TOP = "mil-tutorial-bundle"
FIRST = """MIL FOR WHOLE-SLIDE IMAGES: THE COURSE IN ONE FOLDER, FOR A ROOM WITHOUT A NETWORK

All slides in here are synthetic: a program drew them.

1. READ     Open website/index.html in a browser: all notebooks, executed, with the viewer. No installation is needed.

2. RUN      a) The environment is on this machine already (somebody ran `make env`, or the conda environment):
                 activate it, then
                     {activate}
                     mil-tutorial course
               or start JupyterLab and open notebooks/01-data-and-patch-labels.ipynb.
            b) Only Python is on this machine: wheels/ must be in this folder ({wheels}). Then
                     python -m venv .venv
                     .venv/bin/pip install --no-index --find-links wheels "mil-tutorial[course]"
               (Windows: .venv\\Scripts\\pip)
               and go on with a).

3. TEACH    workshop/student, workshop/solution, workshop/instructor: notebooks. workshop/slides: open the .html files.
            workshop/kit: plans, e-mail, questionnaires. website/teach.html is the guide, website/failures.html the
            list of common failures.

MIL_TUTORIAL_CACHE tells the course where the drawn slides are: the folder cache in here. Without it the course draws
them again, which takes a few minutes and needs no network either.
"""


def run(*command: str) -> None:
    """A command that must succeed."""
    subprocess.run([str(c) for c in command], check=True, cwd=ROOT)


def tracked() -> list[Path]:
    """Files of the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], check=True, cwd=ROOT, capture_output=True).stdout.decode()
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def wheel_list() -> str:
    """Every package that the course needs here, with its version, in the form of a requirements file."""
    from packaging.requirements import Requirement

    found, queue = {}, ["mil-tutorial[course]"]
    seen = set()
    while queue:
        wanted = Requirement(queue.pop())
        for extra in (wanted.extras or {""}) | {""}:
            key = (wanted.name.lower(), extra)
            if key in seen:
                continue
            seen.add(key)
            try:
                package = metadata.distribution(wanted.name)
            except metadata.PackageNotFoundError:
                continue  # an optional one that is not installed here
            found[wanted.name.lower().replace("_", "-")] = package.version
            for line in package.requires or ():
                needed = Requirement(line)
                if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                    queue.append(line.split(";")[0].strip())
    found.pop("mil-tutorial")
    return "\n".join(f"{name}=={version.split('+')[0]}" for name, version in sorted(found.items())) + "\n"


def main() -> int:
    """Write the zip of what is built."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=BUILD / f"{TOP}.zip")
    parser.add_argument("--wheels", action="store_true", help="download the wheels for this platform and put them in")
    parser.add_argument(
        "--all-slides", action="store_true", help="all 132 drawn slides, not only those that are drawn already"
    )
    args = parser.parse_args()
    for part in ("site", "workshop"):
        if not (BUILD / part).is_dir():
            print(f"{BUILD / part} is not built. Run `make {part}` first.")
            return 2
    if args.all_slides:
        run(sys.executable, "-m", "mil_tutorial", "fixture", "--all")
    wheels = BUILD / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("mil_tutorial-*.whl"):
        old.unlink()
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, ".")
    listed = wheel_list()
    (BUILD / "wheels.txt").write_text(listed, encoding="utf-8")
    if args.wheels:
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", wheels, "-r", BUILD / "wheels.txt")
    root = fixture_root()
    parts = [(p, p.relative_to(ROOT)) for p in tracked()]
    for folder, name in (("site", "website"), ("workshop", "workshop")):
        files = sorted(p for p in (BUILD / folder).rglob("*") if p.is_file())
        parts += [(p, Path(name) / p.relative_to(BUILD / folder)) for p in files]
    parts += [(p, Path("wheels") / p.name) for p in sorted(wheels.glob("*.whl"))]
    parts += [(BUILD / "wheels.txt", Path("wheels.txt"))]
    cache = root.parent
    parts += [(p, Path("cache") / p.relative_to(cache)) for p in sorted(root.rglob("*")) if p.is_file()]
    activate = "export MIL_TUTORIAL_CACHE=$PWD/cache      (Windows: set MIL_TUTORIAL_CACHE=%CD%\\cache)"
    first = FIRST.format(
        activate=activate, wheels="they are" if args.wheels else "see wheels.txt for the list to fetch"
    )
    temporary = args.out.with_name(f".{args.out.name}.part")
    stored = {".png", ".jpg", ".tif", ".h5", ".whl", ".zip", ".woff2"}
    with zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(f"{TOP}/READ-ME-FIRST.txt", first)
        names = set()
        for path, name in tqdm(parts, desc="Packing", unit="file"):
            if name.as_posix() in names:
                continue
            names.add(name.as_posix())
            kind = zipfile.ZIP_STORED if path.suffix in stored else zipfile.ZIP_DEFLATED
            archive.write(path, f"{TOP}/{name.as_posix()}", kind)
    temporary.replace(args.out)
    print(f"{args.out}: {len(names) + 1} files, {args.out.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
