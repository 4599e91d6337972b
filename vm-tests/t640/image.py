"""The stand-in image: one version of the appliance, built with mkosi from Debian packages and this repository.

Published files of a version (names from `image/layout.toml`): the slot's data and verity partitions as raw files that
carry their partition UUID in their name, and the unified kernel image with the root hash inside.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance_release import canary
from t640 import layout as layouts
from t640 import lifeline, toolroot, variants, wheels
from t640.apt import STABLE, system_mirror
from t640.artifacts import Artifacts
from t640.errors import RigError
from t640.paths import PACKAGE, REPOSITORY, cache_directory, distributions, locked

PROJECT = PACKAGE / "mkosi"

PYTHON_PACKAGES = (
    "curl", "fdisk",
    "gir1.2-glib-2.0", "gpgv", "minisign", "python3-click", "python3-cryptography", "python3-gi", "python3-jinja2",
    "python3-msgspec", "python3-nacl", "python3-pydbus",
    "python3-requests", "python3-rfc8785", "python3-rich", "python3-securesystemslib", "python3-starlette",
    "python3-systemd", "python3-tenacity", "python3-tuf", "python3-uvicorn", "python3-zeroconf", "python3-zstandard",
    "sqlite-utils",
)  # fmt: skip
"""What the appliance's programs need from Debian (the lifeline's come first), beside the base system in mkosi.conf."""

CHUNK_TOOLS = {STABLE: "casync"}
"""Who puts an artifact together from chunks: casync where it is still packaged, else desync."""

KERNELS = {"cloud": "linux-image-cloud-amd64", "generic": "linux-image-amd64"}
"""The cloud kernel boots a QEMU machine fastest; the generic one has the T640's own drivers."""


@dataclass(frozen=True)
class Recipe:
    """What to build. `files` are extra files of the image (path → content), such as a site's trust anchors."""

    version: str
    variant: str = "good"
    release: str = STABLE
    kernel: str = "cloud"
    files: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[str, ...] = ()
    """Debian packages beside those every image has."""


def key(recipe: Recipe) -> str:
    """What the built image depends on, in sixteen hex digits."""
    inputs = [
        PROJECT,
        layouts.LAYOUT_FILE,
        REPOSITORY / "image/sysctl.d",
        REPOSITORY / "image/seed",
        PACKAGE / "layout.py",
        PACKAGE / "image.py",
        PACKAGE / "variants.py",
        PACKAGE / "wheels.py",
        REPOSITORY / "central/src/appliance_release/canary.py",
    ]
    digest = hashlib.sha256(wheels.content_key([*inputs, *distributions()]).encode())
    asked = [recipe.version, recipe.variant, recipe.release, recipe.kernel, dict(recipe.files), *recipe.packages]
    digest.update(json.dumps(asked).encode())
    return digest.hexdigest()[:16]


def build(recipe: Recipe, detail: Callable[[str], None] | None = None) -> Artifacts:
    """Build a version, or take it from the cache; `detail` is told how it goes.

    Raises `RigError` with the end of mkosi's output.
    """
    variants.get(recipe.variant)
    directory = cache_directory() / "images" / f"{recipe.version}-{recipe.variant}-{key(recipe)}"
    with locked("image"):
        if not (directory / "complete").exists():
            _build(recipe, directory, detail)
    return _artifacts(recipe.version, directory)


def _build(recipe: Recipe, directory: Path, detail: Callable[[str], None] | None) -> None:
    root = toolroot.ensure()
    # An interrupted build leaves its workspace behind.
    for left_over in (root / "var/tmp").iterdir():
        shutil.rmtree(left_over, ignore_errors=True)
    project = _stage(recipe)
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    arguments = ["mkosi", "--directory", str(toolroot.inside(project)), "--image-version", recipe.version,
                 "--release", recipe.release, "--force", "build"]  # fmt: skip
    toolroot.run(arguments, root=root, log=directory / "mkosi.log", detail=detail)
    _collect(project, recipe.version, directory)
    (directory / "complete").touch()
    _forget_older(directory, recipe)


def _forget_older(directory: Path, recipe: Recipe) -> None:
    for other in directory.parent.glob(f"{recipe.version}-{recipe.variant}-*"):
        if other != directory:
            shutil.rmtree(other)


def _stage(recipe: Recipe) -> Path:
    """Write the whole mkosi project into the cache; nothing inside the tool root sees the repository."""
    project = cache_directory() / "mkosi" / f"{recipe.release}-{recipe.kernel}"
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(PROJECT, project, symlinks=True)
    layout, mirror = layouts.load(), system_mirror()
    work = cache_directory() / "mkosi"
    for name in ("mkosi.cache", "mkosi.packages"):
        (work / f"{recipe.release}-{recipe.kernel}-{name}").mkdir(parents=True, exist_ok=True)
    inside = toolroot.inside(work)
    prefix = f"{inside}/{recipe.release}-{recipe.kernel}"
    (project / "mkosi.output").mkdir()
    (project / "mkosi.conf.d").mkdir()
    (project / "mkosi.conf.d/50-rig.conf").write_text(
        f"[Distribution]\nMirror={mirror.uri}\n\n"
        f"[Output]\nImageId={layout.image_id}\n\n"
        "[Content]\nPackages=\n        " + "\n        ".join(_packages(recipe)) + "\n"
        f"KernelCommandLine={' '.join(_command_line(layout, recipe))}\n"
        f"RemoveFiles={' '.join(variants.get(recipe.variant).removed)}\n\n"
        f"[Build]\nCacheDirectory={prefix}-mkosi.cache\nPackageCacheDirectory={prefix}-mkosi.packages\n"
    )
    _write_all(project / "mkosi.repart", layouts.image_definitions(layout))
    settings = mirror.settings_file()
    sources = {"mkosi.sources": mirror.sources_file(recipe.release)}
    _write_all(project / "mkosi.sandbox/etc/apt/sources.list.d", sources)
    if recipe.release != STABLE:
        # A suite that is not released yet may lie about with an old Release file; its signature is still checked.
        settings += 'Acquire::Check-Valid-Until "false";\n'
    _write_all(project / "mkosi.sandbox/etc/apt/apt.conf.d", {"90-rig": settings})
    _fill_tree(project / "mkosi.extra", layout, recipe)
    wheels.install_initrd(project / "mkosi.images/initrd/mkosi.extra")
    return project


def _packages(recipe: Recipe) -> list[str]:
    return [*PYTHON_PACKAGES, CHUNK_TOOLS.get(recipe.release, "desync"), KERNELS[recipe.kernel], *recipe.packages]


def _command_line(layout: layouts.Layout, recipe: Recipe) -> list[str]:
    arguments = ["console=ttyS0", "quiet", "systemd.show_status=no", "lockdown=integrity", *layout.command_line]
    if recipe.variant == "panic":
        arguments.append("rdinit=/usr/bin/false")
    return arguments


def _fill_tree(tree: Path, layout: layouts.Layout, recipe: Recipe) -> None:
    wheels.install_all(tree)
    lifeline.install(tree)
    shutil.copytree(REPOSITORY / "image/sysctl.d", tree / "usr/lib/sysctl.d", dirs_exist_ok=True)
    _install_seed(tree)
    _write_all(tree / "usr/share/appliance-update", {"build-time": f"{int(time.time())}\n"})
    for name, text in layouts.device_definitions(layout).items():
        _write_all((tree / "usr/lib" / name).parent, {Path(name).name: text})
    canary.make(tree / "usr/share/appliance-update/canary", layouts.LAYOUT_FILE)
    variants.apply(tree, recipe.variant)
    for name, content in recipe.files.items():
        _write_all((tree / name.lstrip("/")).parent, {Path(name).name: content})


def _install_seed(tree: Path) -> None:
    """What takes over the site's settings that a technician left on the boot partition."""
    seed = REPOSITORY / "image/seed"
    places = {"appliance-seed": "usr/lib/appliance-seed", "appliance-seed.service": "usr/lib/systemd/system"}
    for name, place in places.items():
        (tree / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(seed / name, tree / place / name)


def _write_all(folder: Path, files: Mapping[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)


def _collect(project: Path, version: str, directory: Path) -> None:
    output = project / "mkosi.output"
    for pattern in ("*.data.*.raw", "*.verity.*.raw", "*.efi"):
        found = [path for path in output.glob(pattern) if path.is_file() and not path.is_symlink()]
        if len(found) != 1:
            raise RigError(f"mkosi made {len(found)} files like {pattern} in {output}, one was expected for {version}.")
        kind = pattern.split(".")[1]
        # mkosi's split files are called <image>_<version>.<kind>.<partition UUID>.raw.
        name = "uki.efi" if kind == "efi" else f"{kind}.{found[0].name.split('.')[-2].replace('-', '')}.raw"
        subprocess.run(["cp", "--sparse=always", str(found[0]), str(directory / name)], check=True)
    loaders = sorted((project.parent / f"{project.name}-mkosi.cache").rglob("systemd-bootx64.efi"))
    if not loaders:
        raise RigError(f"There is no systemd-bootx64.efi in mkosi's cache beside {project}.")
    shutil.copy(loaders[-1], directory / "systemd-bootx64.efi")
    shutil.rmtree(output)


def _artifacts(version: str, directory: Path) -> Artifacts:
    data, verity = next(directory.glob("data.*.raw")), next(directory.glob("verity.*.raw"))
    data_uuid, verity_uuid = (path.name.split(".")[1] for path in (data, verity))
    loader = directory / "systemd-bootx64.efi"
    return Artifacts(version, directory, data, data_uuid, verity, verity_uuid, directory / "uki.efi", loader)
