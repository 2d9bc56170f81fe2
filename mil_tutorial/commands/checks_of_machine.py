"""What `mil-tutorial doctor` checks. A check returns what it found, or raises `NotReady` with a remedy.

Packages are imported inside the checks: one that is missing or broken spoils its own check and no other.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGE, EXTRA = "mil-tutorial", "course"
OLDEST, NEWEST = (3, 10), (3, 13)  # of Python, as in pyproject.toml
GIGABYTE = 2**30
DISK = (0.5, 2.0)  # GB: below the first the course cannot draw its slides, below the second it is tight
MEMORY = (1.0, 2.0)  # GB that are free; the largest notebook takes less than 1
KERNEL_SECONDS = 60  # that a kernel may take to start; on a slow disk the first start takes long
NETWORK_SECONDS = 3.0
SLIDE = "normal_001"  # opened by the check; drawn first if it is not there


class NotReady(Exception):
    """Raised by a check: what was found and what to do. With `only_note` the course runs all the same."""

    def __init__(self, found: str, remedy: str, *, only_note: bool = False) -> None:
        super().__init__(found)
        self.found, self.remedy, self.only_note = found, remedy, only_note


def install_line() -> str:
    """The command that installs the course from a checkout."""
    return "pip install -c constraints.txt torch -e '.[course]'  (or, with make: make env)"


def check_python() -> str:
    """The version of Python."""
    version = sys.version_info[:2]
    text = ".".join(map(str, sys.version_info[:3]))
    if version < OLDEST:
        raise NotReady(text, f"install Python {OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]} and make a new .venv")
    if version > NEWEST:
        raise NotReady(
            text, f"newer than the tested {NEWEST[0]}.{NEWEST[1]}; if a package fails, use that", only_note=True
        )
    return text


def requirements() -> list[Requirement]:
    """What the course needs here: of the package itself, of the extra `course` and of the extras that it names."""
    from packaging.requirements import Requirement

    stated = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    extras, found = ["", EXTRA], dict[str, Requirement]()
    for extra in extras:  # grows while it is read
        for wanted in stated:
            if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
                continue
            if wanted.name == PACKAGE:
                extras += sorted(wanted.extras - set(extras))
            else:
                found[str(wanted)] = wanted
    return list(found.values())


def pins(checkout: Path) -> dict[str, list[str]]:
    """Versions in `constraints.txt` of a checkout by package, those for this Python; none where it is not there."""
    from packaging.requirements import Requirement

    found: dict[str, list[str]] = {}
    path = checkout / "constraints.txt"
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        if text.strip() and not text.startswith("#"):
            wanted = Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate():
                found.setdefault(wanted.name.lower(), []).append(str(wanted.specifier).removeprefix("=="))
    return found


def check_packages() -> str:
    """Every package is there, and none is older than `pyproject.toml` allows."""
    pinned, wrong, other = pins(Path(__file__).resolve().parents[2]), [], []
    try:
        wanted = requirements()
    except metadata.PackageNotFoundError as error:
        raise NotReady(f"{error} is not installed in this Python ({sys.prefix})", install_line()) from error
    for package in wanted:
        try:
            version = metadata.version(package.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{package.name} is missing")
            continue
        if not package.specifier.contains(version, prereleases=True):
            wrong.append(f"{package.name} {version}, needed {package.specifier}")
        elif pinned and version.split("+")[0] not in pinned.get(package.name.lower(), [version.split("+")[0]]):
            other.append(f"{package.name} {version}")
    if wrong:
        raise NotReady("; ".join(wrong[:4]) + (f"; {len(wrong) - 4} more" if len(wrong) > 4 else ""), install_line())
    n = len(wanted)
    if other:
        found = f"{n} packages; other versions than tested: {', '.join(other[:3])}"
        found += f" and {len(other) - 3} more" if len(other) > 3 else ""
        raise NotReady(found, f"usually fine; if something fails: {install_line()}", only_note=True)
    return f"{n} packages, new enough" + (", as in constraints.txt" if pinned else "")


def check_disk() -> str:
    """The folder for drawn slides can be written to and has room."""
    from mil_tutorial.files import CACHE_VARIABLE, cache_folder, check_writable

    folder = cache_folder()
    check_writable(folder / "doctor")
    free = shutil.disk_usage(folder).free / GIGABYTE
    found = f"{free:.1f} GB free in {folder}"
    if free < DISK[1]:
        remedy = f"free some space, or set {CACHE_VARIABLE} to a folder on a larger disk"
        raise NotReady(found, remedy, only_note=free >= DISK[0])
    return found


def check_memory() -> str:
    """Enough memory is free for a notebook."""
    import psutil

    memory = psutil.virtual_memory()
    free = memory.available / GIGABYTE
    found = f"{free:.1f} of {memory.total / GIGABYTE:.1f} GB free"
    if free < MEMORY[1]:
        remedy = "close other programs, browser windows first; keep one notebook open at a time"
        raise NotReady(found, remedy, only_note=free >= MEMORY[0])
    return found


def check_cores() -> str:
    """Processor cores that this process may use."""
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if n < 2:
        raise NotReady("1 core", "it works, at half the speed; close other programs", only_note=True)
    return f"{n} cores"


def check_figure() -> str:
    """matplotlib draws, with its fonts."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(3, 2)), io.BytesIO()
    axis = figure.add_subplot()
    axis.plot([0, 1], [0, 1])
    axis.set_title("tumour share $s_i$")
    FigureCanvasAgg(figure).print_png(file)
    return f"drawn, {len(file.getvalue()) / 1000:.0f} kB"


def check_features() -> str:
    """The shipped features are there and whole: their SHA-256 is that of the day they were made."""
    from mil_tutorial.fixture.plan import ROSTER
    from mil_tutorial.fixture.tree import ENCODER, MARKER, RUN, fixture_root
    from mil_tutorial.trident import read_features

    root, digest = fixture_root(), hashlib.sha256()
    remedy = f"delete the folder {root}; the course makes it again from the package"
    stamp = json.loads((root / MARKER).read_text(encoding="utf-8"))["features"]
    folder = root / "trident_processed" / RUN
    for name in ROSTER:
        path = folder / f"features_{ENCODER}" / f"{name}.h5"
        if not path.is_file():
            raise NotReady(f"{path.name} is missing", remedy)
        try:
            digest.update(read_features(path, coords=False)[0].tobytes())
        except Exception as error:  # whatever h5py says of a damaged file
            raise NotReady(f"{path.name} is damaged", remedy) from error
    if digest.hexdigest() != stamp:
        raise NotReady("the features are not those that were shipped", remedy)
    return f"features of {len(ROSTER)} slides, whole"


def check_slide() -> str:
    """A slide opens, is drawn first where needed, and shows tissue."""
    import numpy as np

    from mil_tutorial import open_slide, read_overview
    from mil_tutorial.data import open_data
    from mil_tutorial.fixture.tree import fixture_root

    with open_slide(open_data(fixture_root()).slide_path(SLIDE)) as slide:
        picture = read_overview(slide, downsample=max(slide.dimensions) / 400)
        width, height = slide.dimensions
    if not np.ptp(picture.reshape(-1, 3), axis=1).max() > 40:
        raise NotReady(
            "the slide is read as a blank page", "pip install --force-reinstall openslide-bin openslide-python"
        )
    return f"{SLIDE}: {width} x {height} pixels, tissue seen"


def check_training() -> str:
    """PyTorch computes a step of attention-based MIL."""
    import torch

    from mil_tutorial import ABMIL

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ABMIL(16, att_dim=8)
        losses = model.compute_loss(torch.tensor([1.0, 0.0]), torch.randn(2, 5, 16))[1]
    torch.stack(list(losses.values())).sum().backward()
    if any(p.grad is None or not torch.isfinite(p.grad).all() for p in model.parameters()):
        raise NotReady("a gradient is missing or not finite", "pip install --force-reinstall -c constraints.txt torch")
    return f"a step with torch {torch.__version__}"


def start_kernel() -> Future[str]:
    """Start a kernel in a thread and let it say where its Python is and whether it finds the course."""

    def ask() -> str:
        from jupyter_client.manager import start_new_kernel

        manager, client = start_new_kernel(KERNEL_SECONDS, "python3", stderr=subprocess.DEVNULL)
        heard: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                heard.append(message["content"]["text"])

        code = "import importlib.util as u, sys; print(sys.prefix, u.find_spec('mil_tutorial') is not None, sep='|')"
        try:
            client.execute_interactive(code, timeout=KERNEL_SECONDS, output_hook=hear, store_history=False)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        return "".join(heard).strip()

    with suppress(ImportError):  # whole, before the thread loads it: matplotlib looks into what is there of it
        import IPython  # noqa: F401
    pool = ThreadPoolExecutor(1)
    future = pool.submit(ask)
    pool.shutdown(wait=False)
    return future


def check_kernel(kernel: Future[str]) -> str:
    """The kernel that JupyterLab starts is this Python, and finds the course.

    Args:
        kernel: what `start_kernel` gave.
    """
    remedy = f"{sys.executable} -m ipykernel install --sys-prefix"
    try:
        prefix, found = kernel.result(timeout=2 * KERNEL_SECONDS).rsplit("|", 1)
    except ImportError as error:
        raise NotReady(f"{error.name} is not installed", install_line()) from error
    except Exception as error:  # no kernel of that name, a port that is taken, a firewall
        words = re.sub(r"\s+", " ", str(error))[:120]
        raise NotReady(f"no kernel starts ({type(error).__name__} {words})", remedy) from error
    if found != "True":
        raise NotReady("the kernel does not find mil_tutorial", remedy)
    if os.path.realpath(prefix) != os.path.realpath(sys.prefix):
        raise NotReady(f"the kernel is another Python ({prefix})", remedy)
    return "a kernel starts and finds the course"


def check_network() -> str:
    """The project's host answers. Nothing is sent."""
    urls = dict(u.split(", ", 1) for u in metadata.metadata(PACKAGE).get_all("Project-URL") or ())
    host = urlsplit(urls.get("Repository", "")).hostname or ""
    try:
        socket.create_connection((host, 443), NETWORK_SECONDS).close()
    except OSError as error:
        raise NotReady(
            f"{host} does not answer", "the course needs no network; ask for a USB stick", only_note=True
        ) from error
    return f"{host} answers"


CHECKS = [
    ("Python", check_python),
    ("packages", check_packages),
    ("disk", check_disk),
    ("memory", check_memory),
    ("cores", check_cores),
    ("figure", check_figure),
    ("features", check_features),
    ("slide", check_slide),
    ("training", check_training),
]
