"""The configuration: defaults, then file, then environment, then flags."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from kernelsvc.settings import load_settings


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """An empty directory and environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith("KERNELSVC_")]:
        monkeypatch.delenv(name)
    return tmp_path


def toml(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_without_anything_the_defaults_are_those_of_the_contract(monkeypatch):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    settings = load_settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8787)
    assert (settings.default_timeout, settings.max_timeout) == (30, 3600)
    assert (settings.interrupt_grace, settings.terminate_grace) == (2, 2)
    assert settings.sleep_after == 300
    assert settings.data_dir == Path("/home/x/.local/share/kernelsvc")
    assert settings.database == "sqlite:////home/x/.local/share/kernelsvc/kernelsvc.db"


def test_file_overrides_default_environment_overrides_file_flag_overrides_all(nowhere, monkeypatch):
    config = toml(nowhere / "x.toml", "default_timeout = 11\nport = 1001\nkeep_runs = 7")
    monkeypatch.setenv("KERNELSVC_DEFAULT_TIMEOUT", "12")
    monkeypatch.setenv("KERNELSVC_PORT", "1002")
    settings = load_settings(config, default_timeout="13")
    assert settings.default_timeout == 13
    assert settings.port == 1002
    assert settings.keep_runs == 7
    assert settings.max_timeout == 3600


def test_a_flag_that_was_not_given_overrides_nothing(monkeypatch):
    monkeypatch.setenv("KERNELSVC_PORT", "1002")
    assert load_settings(None, port=None, host=None).port == 1002


def test_the_file_in_the_working_directory_is_read_when_none_is_named(nowhere):
    toml(nowhere / "config" / "kernelsvc.toml", "port = 1001")
    assert load_settings().port == 1001


def test_the_file_of_the_environment_is_read_and_the_flags_file_before_it(nowhere, monkeypatch):
    toml(nowhere / "config" / "kernelsvc.toml", "port = 1001\nkeep_runs = 3")
    monkeypatch.setenv("KERNELSVC_CONFIG", str(toml(nowhere / "env.toml", "port = 1002")))
    settings = load_settings()
    assert (settings.port, settings.keep_runs) == (1002, 50)
    assert load_settings(toml(nowhere / "flag.toml", "port = 1003")).port == 1003


@pytest.mark.parametrize("by", ["flag", "environment"])
def test_a_file_that_was_named_and_is_not_there_is_an_error_that_names_it(by, monkeypatch):
    if by == "environment":
        monkeypatch.setenv("KERNELSVC_CONFIG", "no/such.toml")
    with pytest.raises(FileNotFoundError, match=r"no/such\.toml"):
        load_settings(Path("no/such.toml") if by == "flag" else None)


@pytest.mark.parametrize("text", ["defalt_timeout = 5", "[timeouts]\ndefault = 5", "a = 1"])
def test_an_unknown_key_in_the_file_is_named(nowhere, text):
    key = text.strip("[").replace("]", " ").split()[0]
    with pytest.raises(ValidationError, match=key):
        load_settings(toml(nowhere / "x.toml", text))


def test_a_misspelt_flag_is_an_error():
    with pytest.raises(ValidationError, match="prot"):
        load_settings(prot=1)


def test_a_file_that_is_no_toml_is_a_value_error_that_names_the_file(nowhere):
    with pytest.raises(ValueError, match=r"broken\.toml"):
        load_settings(toml(nowhere / "broken.toml", "port = = 1"))


@pytest.mark.parametrize(
    ("given", "seconds"), [("5", 5), ("2.5", 2.5), ("5m", 300), ("1h", 3600), ("30s", 30)]
)
def test_times_are_seconds_or_durations_in_the_environment_too(given, seconds, monkeypatch):
    monkeypatch.setenv("KERNELSVC_SLEEP_AFTER", given)
    assert load_settings().sleep_after == seconds


@pytest.mark.parametrize("given", [0, "0", 0.0])
def test_kernels_may_end_with_the_service(given):
    assert load_settings(orphan_grace=given).orphan_grace == 0.0


def test_sessions_may_sleep_never():
    assert load_settings(sleep_after="never").sleep_after == float("inf")


BAD = [
    ("port", "65536"),
    ("port", "-1"),
    ("port", "http"),
    ("default_timeout", "0"),
    ("default_timeout", "-1"),
    ("default_timeout", "nan"),
    ("default_timeout", "inf"),
    ("default_timeout", "never"),
    ("orphan_grace", "never"),
    ("orphan_grace", "-1"),
    ("default_timeout", "soon"),
    ("default_timeout", ""),
    ("max_timeout", "never"),
    ("interrupt_grace", "never"),
    ("max_output_bytes", "1023"),
    ("max_output_bytes", "1MB"),
    ("max_queued_runs", "0"),
    ("keep_runs", "0"),
    ("max_header_bytes", "10"),
    ("api_key", ""),
    ("api_key", "two words"),
    ("api_key", "ümlaut"),
    ("allowed_hosts", "*.example.com"),
    ("allowed_hosts", "https://example.com"),
    ("cors_origins", "*"),
    ("cors_origins", "example.com"),
    ("cors_origins", "https://example.com/"),
    ("tls_key", "key.pem"),
    ("tls_certificate", "certificate.pem"),
    ("log_format", "xml"),
    ("log_level", "loud"),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_an_error_that_names_the_setting(name, value, monkeypatch):
    monkeypatch.setenv(f"KERNELSVC_{name.upper()}", value)
    with pytest.raises(ValidationError, match=name):
        load_settings()


@pytest.mark.parametrize("value", ["true", "[5]", "{a = 5}", "1979-05-27", "nan", "inf", "-1"])
def test_a_time_in_the_file_that_is_none_is_an_error_that_names_the_setting(nowhere, value):
    with pytest.raises(ValidationError, match="default_timeout"):
        load_settings(toml(nowhere / "x.toml", f"default_timeout = {value}"))


def test_a_default_above_the_maximum_is_an_error_that_names_both():
    with pytest.raises(ValidationError, match="default_timeout is above max_timeout"):
        load_settings(default_timeout=61, max_timeout=60)


def test_settings_cannot_be_changed():
    settings = load_settings()
    with pytest.raises(ValidationError):
        settings.port = 1


def test_a_database_of_ones_own_is_taken_as_it_is():
    assert load_settings(database_url="sqlite:////x.db").database == "sqlite:////x.db"


def test_lists_are_separated_by_commas_in_the_environment_and_are_lists_in_the_file(
    nowhere, monkeypatch
):
    config = toml(nowhere / "x.toml", 'allowed_hosts = ["a.example", "B.example:80"]')
    assert load_settings(config).allowed_hosts == ("a.example", "b.example:80")
    monkeypatch.setenv("KERNELSVC_ALLOWED_HOSTS", "c.example, [::1]:1,")
    monkeypatch.setenv("KERNELSVC_CORS_ORIGINS", "")
    settings = load_settings(config)
    assert (settings.allowed_hosts, settings.cors_origins) == (("c.example", "[::1]:1"), ())
