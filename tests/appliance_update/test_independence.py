"""The updater on a machine where nothing else of this repository exists: it shares nothing with what it may repair."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from appliance_update import history
from tests.appliance_update.conftest import V1, V2, V3, World
from tests.appliance_update.simulator import boot
from tests.appliance_update.test_distribution import OTHERS

REPOSITORY = Path(__file__).parents[2]
UPDATER = REPOSITORY / "agent/appliance-update"
NEIGHBOURS = [REPOSITORY / "agent" / name for name in ("compliance-agent", "network-scanner", "local-portal")]
SIMULATOR = Path(__file__).with_name("simulator.py")

SCRIPT = """
import importlib.util, json, sys
facts = json.loads(sys.argv[1])
sys.path.insert(0, facts["packages"])
for name in facts["others"]:
    assert importlib.util.find_spec(name) is None, f"{name} is here"
spec = importlib.util.spec_from_file_location("simulator", facts["simulator"])
simulator = sys.modules["simulator"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulator)
from pathlib import Path
from appliance_update.config import Config, Paths
from appliance_update.layout import load
from appliance_update.machine import assemble
from appliance_update.settle import settle

device = simulator.Device(Path(facts["root"]), load(Path(facts["layout"])))
paths = Paths(facts["layout"], facts["trusted"], str(device.state), str(device.runtime))
updater = assemble(Config(repository=facts["repository"], paths=paths), host=device.host,
                   writer=simulator.SimulatedSysupdate(device), reboot=print)
if facts["step"] == "run":
    print(updater.run())
else:
    with updater.store.locked():
        settle(updater.store, updater.host, updater.layout)
    print(updater.store.record.state.value)
assert not set(facts["others"]) & {name.partition(".")[0] for name in sys.modules}
"""


def requirements(name: str, found: set[str]) -> set[str]:
    """A distribution and everything it needs, extras left out."""
    if name in found:
        return found
    found.add(name)
    for line in importlib.metadata.requires(name) or ():
        text, _, marker = line.partition(";")
        match = re.match(r"[A-Za-z0-9._-]+", text)
        assert match
        other = re.sub(r"[-_.]+", "-", match[0]).lower()
        if "extra" not in marker and _installed(other):  # what another Python or system would need is not here
            requirements(other, found)
    return found


def _installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the updater and its own dependencies, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    (folder / "appliance_update").symlink_to(UPDATER / "src/appliance_update")
    for name in requirements("appliance-update", set()) - {"appliance-update"}:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or () if ".." not in file.parts}:
            source = Path(str(distribution.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    return folder


def alone(packages: Path, world: World, step: str) -> str:
    """One process of the updater with these packages only: no site-packages, no environment."""
    facts = {
        "packages": str(packages), "others": OTHERS, "simulator": str(SIMULATOR), "root": str(world.device.root),
        "layout": str(world.layout_file), "trusted": world.config.paths.trusted_root,
        "repository": world.config.repository, "step": step,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", SCRIPT, json.dumps(facts)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_machine_without_the_other_packages_goes_through_two_whole_updates(packages: Path, world: World) -> None:
    for version in (V2, V3):
        world.publish(version)
        assert f"{version} is installed" in alone(packages, world, "run")
        assert boot(world.device) == version
        assert "committed" in alone(packages, world, "settle")


def test_a_machine_without_the_other_packages_rolls_back(packages: Path, world: World) -> None:
    world.publish(V2)
    alone(packages, world, "run")
    assert boot(world.device, healthy={V1}) == V1
    assert "rolled_back" in alone(packages, world, "settle")
    entries, _ = history.read(world.device.state / "history.jsonl")
    assert entries[-1].event == "quarantined"


# -- users, keys, configuration, sockets ------------------------------------------------------------------------------


def texts(distribution: Path) -> dict[Path, str]:
    """The distribution's code, units and settings."""
    kinds = (".py", ".service", ".timer", ".path", ".socket", ".target", ".conf", ".toml", ".sh", "")
    folders = ("src", "systemd", "sysusers.d", "tmpfiles.d", "etc", "share", "dbus-1", "polkit-1")
    files = [path for folder in folders for path in (distribution / folder).rglob("*")]
    return {path: path.read_text() for path in files if path.is_file() and path.suffix in kinds}


def test_the_updater_runs_as_a_user_of_its_own() -> None:
    assert not list(UPDATER.glob("sysusers.d/*"))
    for path, text in texts(UPDATER).items():
        if path.suffix == ".service":
            assert not re.search(r"(?m)^(User|Group|SupplementaryGroups|DynamicUser)=", text), path


def test_the_updater_opens_no_file_and_no_socket_of_the_others_but_what_its_configuration_names() -> None:
    """Where their databases lie and what they write is configuration; it is read, and may be missing."""
    for path, text in texts(UPDATER).items():
        if path.name in ("config.toml", "config.py"):
            continue
        for neighbour in NEIGHBOURS:
            for place in (f"/etc/{neighbour.name}", f"/run/{neighbour.name}", f"/var/lib/{neighbour.name}", "api.sock"):
                assert place not in text, f"{path}: {place}"


def test_the_others_touch_nothing_of_the_updaters_but_its_box_status_and_journal() -> None:
    known = {"requests", "status.json", "history.jsonl", "gate.json", "trial"}
    for neighbour in NEIGHBOURS:
        for path, text in texts(neighbour).items():
            assert "/etc/appliance-update" not in text, path
            assert "/usr/share/appliance-update" not in text, path
            for name in re.findall(r"/(?:run|var/lib)/appliance-update/([\w.-]+)", text):
                assert name in known, f"{path}: {name}"


def test_no_unit_of_the_updater_needs_one_of_theirs() -> None:
    for path, text in texts(UPDATER).items():
        if path.parent.name == "systemd":
            needs = re.findall(r"(?m)^(?:Requires|BindsTo|Requisite|PartOf|After|Wants|Upholds)=(.*)$", text)
            for neighbour in NEIGHBOURS:
                assert not any(neighbour.name in line for line in needs), path


@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=lambda path: path.name)
def test_the_services_start_after_the_mark_and_the_restore_but_need_neither(neighbour: Path) -> None:
    unit = (neighbour / "systemd" / f"{neighbour.name}.service").read_text()
    after = " ".join(re.findall(r"(?m)^After=(.*)$", unit)).split()
    assert {"appliance-update-trial.service", "appliance-update-restore.service"} <= set(after)
    assert not re.search(r"(?m)^(Requires|BindsTo|Wants|Requisite)=.*appliance-update", unit)


def test_mark_and_restore_can_neither_hang_nor_fail_the_boot() -> None:
    for name in ("appliance-update-trial.service", "appliance-update-restore.service"):
        unit = (UPDATER / "systemd" / name).read_text()
        assert re.search(r"(?m)^TimeoutStartSec=(15|2min)$", unit)
        assert not re.search(r"(?m)^(RequiredBy|FailureAction|OnFailure)=", unit)
    assert "ExecStart=-" in (UPDATER / "systemd/appliance-update-restore.service").read_text()
