"""The core in WebAssembly, with no socket, no thread and no `cryptography`: the same update, byte for byte."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import missing

import coreota

PROGRAM = Path(__file__).parent / "pyodide"
LIVE = Path(__file__).parent.parent / "docs/live"  # The site's live pages run under the same Pyodide
PLATFORM = ["--platform", "pyemscripten_2026_0_wasm32", "--python-version", "3.14", "--implementation", "cp"]


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs Python programs under Pyodide, with the packages that ours needs."""
    npm, node, pip = shutil.which("npm"), shutil.which("node"), shutil.which("pip")
    if npm is None or node is None or pip is None:
        missing("npm, node or pip is not installed: apt-get install npm")
    folder = tmp_path_factory.mktemp("pyodide")
    for path in (LIVE / "package.json", LIVE / "package-lock.json", PROGRAM / "run.mjs"):
        shutil.copy(path, folder)
    subprocess.run([str(npm), "ci", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    wheels = ["--only-binary", ":all:", "--no-deps", "-q", "-d", str(folder / "wheels")]
    subprocess.run([str(pip), "download", *wheels, *PLATFORM, "--abi", "cp314", "cbor2>=6.1.2"], check=True)
    subprocess.run([str(pip), "download", *wheels, "ecdsa", "six"], check=True)
    package = Path(coreota.__file__).resolve().parent
    (folder / "source").mkdir()
    shutil.copytree(package, folder / "source/coreota", ignore=shutil.ignore_patterns("__pycache__"))
    return [
        str(node),
        str(folder / "run.mjs"),
        str(folder / "source"),
        *map(str, sorted((folder / "wheels").iterdir())),
    ]


def run(runner: list[str], program: Path) -> str:
    """What a program prints under Pyodide."""
    node, script, source, *wheels = runner
    environment = {**os.environ, "NODE_NO_WARNINGS": "1"}
    command = [node, script, source, str(program), *wheels]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_update_is_the_same_in_webassembly(runner: list[str]) -> None:
    """Link with losses, CBOR and JSON, a power cut in the swap, a file that somebody changed."""
    native = subprocess.run([sys.executable, PROGRAM / "update.py"], capture_output=True, text=True, check=True).stdout
    here, there = json.loads(native), json.loads(run(runner, PROGRAM / "update.py"))
    assert (here["platform"], there["platform"]) == (sys.platform, "emscripten")
    assert there["result"] == here["result"]
    results = there["result"]
    assert {name: (one["running"], one["boots"]) for name, one in results.items()} == {
        "cbor": ("2.0.0", 2), "json": ("2.0.0", 2), "cut": ("2.0.0", 3), "tampered": ("1.0.0", 1),
    }  # fmt: skip
    assert results["cut"]["flash"] == results["cbor"]["flash"]
    assert results["tampered"]["reason"].startswith("rejected: signature-mismatch")


def test_what_needs_cryptography_says_so(runner: list[str], tmp_path: Path) -> None:
    program = tmp_path / "sign.py"
    program.write_text(
        "from coreota.errors import LocalOtaError\n"
        "from coreota.signing import new_signing_key\n"
        "try:\n    new_signing_key()\n"
        "except LocalOtaError as error:\n    print(error)\n"
    )
    assert run(runner, program) == "this needs the package 'cryptography': pip install cryptography\n"


def test_the_core_imports_without_what_it_does_not_use() -> None:
    """With none of the libraries for signatures, MQTT and HTTP, all but the adapters is there."""
    device = (
        "topics jobmessages jobevents jobs parser blocks codec downloader http signing imagekeys flash image trailer "
        "swap boot bootloader flashmap store journal transport config states policy update reports trial"
    )
    rest = "orchestrator device provider.jobs provider.streams provider.ota sim.link sim.web sim.lab viz check"
    source = f"""
import sys, importlib
for name in ("cryptography", "httpx", "paho", "amqtt", "matplotlib", "rich", "sqlalchemy", "starlette", "botocore"):
    sys.modules[name] = None
for name in {[*device.split(), *rest.split()]}:
    importlib.import_module("coreota." + name)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
