"""``ganforge new``: what it writes installs into a fresh environment and goes all the way."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

TINY = "--kimg 0.3 --set width=8 --set z_dim=8 --set batch_size=16 --set resolution_px=16"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the new plugin installed; torch comes from this one."""
    folder = tmp_path_factory.mktemp("new")
    run(Path(sys.executable).with_name("ganforge"), "new", "my_gan", "--into", folder, cwd=folder)
    venv.create(folder / "venv")
    packages = next((folder / "venv" / "lib").glob("python3.*/site-packages"))
    paths = [sysconfig.get_path("purelib"), *ganforge_sources()]
    (packages / "shared.pth").write_text("\n".join(paths))
    python = folder / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "--no-index")
    run(*pip, "--no-build-isolation", folder / "my_gan")
    return folder


def ganforge_sources() -> list[str]:
    """Where an editable install of ganforge lies: a .pth file isn't read from another's folder."""
    root = Path(__file__).parents[2]
    return [str(root), str(root / "plugins"), str(root / "serving")]


def run(*command: object, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ganforge(folder: Path, command: str) -> str:
    python = folder / "venv" / "bin" / "python"
    return run(python, "-m", "gan_core.cli", *command.split(), cwd=folder)


def test_the_new_plugin_is_found_and_nothing_failed(fresh: Path) -> None:
    listed = json.loads(ganforge(fresh, "plugins --json --strict"))
    assert "my_gan" in listed["variants"]
    assert listed["failures"] == []


def test_the_new_plugin_passes_its_own_tests(fresh: Path) -> None:
    python = fresh / "venv" / "bin" / "python"
    out = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=fresh / "my_gan")
    assert " passed" in out


def test_the_new_plugin_trains_exports_publishes_and_serves(fresh: Path) -> None:
    ganforge(fresh, f"train my_gan --data digits --run run {TINY}")
    ganforge(fresh, "export run --model mine")
    ganforge(fresh, "publish run")
    ganforge(fresh, "generate mine -n 4 --seed 1 --out grid.png --url local:model_repository")
    assert (fresh / "grid.png").stat().st_size > 0
