"""The files around the code: examples that load, words that are true, scripts that are whole."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from licraft.cli.main import COMMANDS
from licraft.config_file import ConfigFile
from licraft.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
TEXT = {".py", ".yaml", ".service", ".lua", ".rst", ""}
CONFIGS = sorted((ROOT / "config").rglob("*.yaml"))


def test_the_examples_are_there() -> None:
    names = {str(path.relative_to(ROOT / "config")) for path in CONFIGS}
    three = {f"pool-of-three/{name}.yaml" for name in ("alpha", "beta", "gamma")}
    assert {"node.yaml", "single-server.yaml", *three} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_example_configuration_loads(path: Path) -> None:
    assert load_settings(path, {}).server


def test_the_pool_of_three_is_one_pool() -> None:
    pool = [load_settings(path, {}) for path in sorted((ROOT / "config/pool-of-three").iterdir())]
    assert len(pool) == 3
    assert len({(settings.pool, settings.servers) for settings in pool}) == 1
    assert [settings.server for settings in pool] == [entry.name for entry in pool[0].servers]


def test_the_annotated_configuration_has_every_key() -> None:
    text = (ROOT / "config/node.yaml").read_text()
    assert [key for key in ConfigFile.model_fields if not re.search(rf"(?m)^{key}:", text)] == []


def test_the_unit_file_starts_what_the_command_line_has() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # keys keep their case
    unit.read(ROOT / "config/licraft.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["ExecStart"].split()[1:] == ["run", "--config", "/etc/licraft/server.yaml"]


def test_the_readme_names_the_commands_that_exist_and_no_others() -> None:
    text = (ROOT / "README.rst").read_text()
    table = text.partition("Command  ")[2].partition("Exit status:")[0]
    named = set(re.findall(r"(?m)^``(\w+)", table))
    assert named == set(COMMANDS)


def test_nothing_names_a_machine_of_ours() -> None:
    places = re.compile(r"/(?:work|root|home|tmp)/\w")
    found = []
    for folder in ("licraft", "config", "benchmarks", ".ci"):
        for path in sorted((ROOT / folder).rglob("*")):
            text = path.read_text("utf-8") if path.is_file() and path.suffix in TEXT else ""
            found += [f"{path.relative_to(ROOT)}: {place}" for place in places.findall(text)]
    assert found == []


def test_the_scripts_can_be_run() -> None:
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0


@pytest.mark.parametrize("target", ["demo", "test", "check", "bench", "clean"])
def test_make_knows_its_targets(target: str) -> None:
    dry = subprocess.run(
        ["make", "--dry-run", "-C", str(ROOT), target], capture_output=True, text=True, check=False
    )
    assert dry.returncode == 0, dry.stderr


def test_the_client_loads_nothing_of_the_server() -> None:
    code = "import sys, licraft.client; print(*sorted(sys.modules))"
    run = [sys.executable, "-c", code]
    modules = set(subprocess.run(run, capture_output=True, text=True, check=True).stdout.split())
    assert "licraft.client" in modules
    unwanted = {"pysyncobj", "uvicorn", "starlette", "pydantic", "yaml", "cryptography"}
    assert modules & unwanted == set()
    assert not any(name.startswith(("licraft.server", "licraft.replication")) for name in modules)
