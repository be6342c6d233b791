"""`config/kernelsvc.toml` names every setting with its default, and says nothing else."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from kernelsvc.settings import Settings, load_settings

CONFIG = Path(__file__).parents[2] / "config" / "kernelsvc.toml"

# Their defaults are none, or made of other settings or of directories of the machine's; the file
# has examples.
DERIVED = {"base_url", "data_dir", "runtime_dir", "database_url", "tls_certificate", "tls_key",
           "api_key", "callback_secret"}  # fmt: skip

_SETTING = re.compile(r"^#(\w+ = .*)$", re.MULTILINE)


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch, tmp_path):
    for name in os.environ:
        if name.startswith("KERNELSVC_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)  # where no config/kernelsvc.toml is found


def loaded(text: str, directory: Path) -> Settings:
    path = directory / "settings.toml"
    path.write_text(text)
    return load_settings(path)


def test_as_it_is_the_file_changes_nothing():
    assert load_settings(CONFIG) == load_settings()


def test_every_setting_is_there_once_and_nothing_else():
    named = [line.split(" = ")[0] for line in _SETTING.findall(CONFIG.read_text())]
    assert sorted(named) == sorted(Settings.model_fields)


def test_with_all_lines_in_force_every_setting_has_its_default(tmp_path):
    settings = loaded(_SETTING.sub(r"\1", CONFIG.read_text()), tmp_path)
    assert settings.model_dump(exclude=DERIVED) == load_settings().model_dump(exclude=DERIVED)


def test_examples_of_what_is_derived_are_taken_as_they_are(tmp_path):
    text = _SETTING.sub(r"\1", CONFIG.read_text())
    examples = {name: value for name, value in tomllib.loads(text).items() if name in DERIVED}
    taken = loaded(text, tmp_path).model_dump(include=DERIVED)
    for name in ("api_key", "callback_secret"):
        taken[name] = taken[name].get_secret_value()
    assert {name: str(value) for name, value in taken.items()} == examples


def test_a_changed_line_is_in_force(tmp_path):
    text = CONFIG.read_text().replace('#sleep_after = "5m"', 'sleep_after = "30m"')
    assert loaded(text, tmp_path).sleep_after == 1800
