"""The configuration: defaults, then a TOML file, then `KERNELSVC_*` variables, then flags.

Read by `app` and `cli` only; everything else is given values. Times are in seconds, or durations
such as "5m"; sizes in bytes.
"""

import contextlib
import math
import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from kernelsvc.models.fields import Environment, parse_duration
from kernelsvc.models.limits import DEFAULT_LIMITS, HIGHEST_LIMITS, Limits, parse_size

_HOST = re.compile(r"([A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_KEY = re.compile(r"[!-~]+")

DEFAULT_CONFIG = Path("config/kernelsvc.toml")


def _duration(value: Any) -> float:
    """A duration; in the environment a number is text, too."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return parse_duration(float(value))
    return parse_duration(value)


Duration = Annotated[float, BeforeValidator(_duration)]


def _duration_or_none(value: Any) -> float:
    """A duration, or 0."""
    return 0.0 if str(value) in ("0", "0.0") else _duration(value)


DurationOrNone = Annotated[float, BeforeValidator(_duration_or_none)]


def _size(value: Any) -> int | None:
    """A size; in the environment a number is text, too."""
    return parse_size(int(value) if isinstance(value, str) and value.isdigit() else value)


RequiredSize = Annotated[int, BeforeValidator(_size)]


def _names(value: Any) -> Any:
    """A list; in the environment, its items with commas between them."""
    if isinstance(value, str):
        return tuple(name for part in value.split(",") if (name := part.strip()))
    return value


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)]


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not _HOST.fullmatch(name):
            raise ValueError("must be host names such as example.com, or example.com:8787")
    return tuple(name.lower() for name in names)


def _modules(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError("must be names of modules, such as numpy or matplotlib.pyplot")
        if find_spec(name.partition(".")[0]) is None:
            raise ValueError(f"there is no module {name} in the service's environment")
    return names


def _origins(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        scheme, _, host = name.partition("://")
        if scheme not in ("http", "https") or not _HOST.fullmatch(host):
            raise ValueError("must be origins such as https://example.com, without a path or a *")
    return tuple(name.lower() for name in names)


def _api_key(key: SecretStr) -> SecretStr:
    if not _KEY.fullmatch(key.get_secret_value()):
        raise ValueError("must be letters, digits and other visible ASCII characters, no spaces")
    return key


def _data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "kernelsvc"


class Settings(BaseSettings):
    """Everything that can be configured; `config/kernelsvc.toml` explains each."""

    # An error must not quote what was given: it may be a key.
    model_config = SettingsConfigDict(
        env_prefix="KERNELSVC_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    base_url: str | None = None
    max_body_bytes: PositiveInt = 16 * 1024 * 1024
    header_timeout: Duration = 60.0
    max_header_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    api_key: Annotated[SecretStr, AfterValidator(_api_key)] | None = None
    allowed_hosts: Annotated[Names, AfterValidator(_hosts)] = ()
    cors_origins: Annotated[Names, AfterValidator(_origins)] = ()

    data_dir: Path = Field(default_factory=_data_dir)
    runtime_dir: Path | None = None
    database_url: str | None = None
    keep_runs: PositiveInt = 50
    keep_runs_for: Duration = 30 * 24 * 3600.0

    callback_secret: Annotated[SecretStr, AfterValidator(_api_key)] | None = None
    callback_networks: Names = ()
    callback_timeout: Duration = 30.0
    callback_first_pause: Duration = 2.0
    callback_attempts: PositiveInt = 16

    default_timeout: Duration = 30.0
    max_timeout: Duration = 3600.0
    interrupt_grace: Duration = 2.0
    terminate_grace: Duration = 2.0
    sleep_after: Duration = 300.0
    snapshots: bool = True
    snapshot_share: Annotated[float, Field(ge=0, le=1)] = 0.4
    sleep_keeps_memory: bool = True
    sleep_save_timeout: Duration = 20.0
    memory_file_bytes: RequiredSize = 1 << 30
    kernel_start_timeout: Duration = 60.0
    drain_timeout: Duration = 30.0
    orphan_grace: DurationOrNone = 60.0
    max_queued_runs: PositiveInt = 16
    max_sessions: PositiveInt = 10_000
    max_kernels: PositiveInt = 200
    max_starting: PositiveInt = 4
    pool_min: NonNegativeInt = 1
    pool_max: NonNegativeInt = 8
    pool_age: Duration = 3600.0
    kernelspecs: Names = ()
    preload: Annotated[Names, AfterValidator(_modules)] = ()
    min_free_memory: RequiredSize = 256 * 1024 * 1024
    max_output_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_data_bytes: PositiveInt = 1024 * 1024

    proxy_timeout: Duration = 60.0
    proxy_idle_timeout: Duration = 300.0
    max_proxy_connections: PositiveInt = 64

    sandbox: Literal["auto", "off"] = "auto"
    allow_unsandboxed: bool = False
    sandbox_user: Annotated[int, Field(ge=1, lt=1 << 31)] = 60878
    sandbox_tmp_size: RequiredSize = 256 * 1024 * 1024
    sandbox_shm_size: RequiredSize = 64 * 1024 * 1024
    internet_by_default: bool = False
    internet_domains: Names = ()
    internet_networks: Names = ()
    setup_timeout: Duration = 600.0
    setup_internet: bool = True
    setup_environment: Environment = Field(default_factory=dict)
    setup_cache_bytes: RequiredSize = 5 * 1024 * 1024 * 1024
    max_setups: PositiveInt = 4
    limits: Limits = DEFAULT_LIMITS
    max_limits: Limits = HIGHEST_LIMITS

    log_format: Literal["auto", "human", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("limits", "max_limits")
    @classmethod
    def _are_whole(cls, given: Limits, info: ValidationInfo) -> Limits:
        return given.over(DEFAULT_LIMITS if info.field_name == "limits" else HIGHEST_LIMITS)

    @model_validator(mode="after")
    def _is_consistent(self) -> "Settings":
        for name in (
            "max_timeout",
            "default_timeout",
            "interrupt_grace",
            "terminate_grace",
            "sleep_save_timeout",
            "callback_timeout",
            "callback_first_pause",
            "orphan_grace",
            "proxy_timeout",
            "setup_timeout",
        ):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name} cannot be never")
        if self.default_timeout > self.max_timeout:
            raise ValueError("default_timeout is above max_timeout")
        for name, problem in self.limits.beyond(self.max_limits).items():
            raise ValueError(f"limits.{name} {problem} (max_limits)")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together: give both, or neither")
        return self

    @property
    def database(self) -> str:
        """The database's URL; by default an SQLite file below `data_dir`."""
        return self.database_url or f"sqlite:///{self.data_dir / 'kernelsvc.db'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags over environment over file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def load_settings(config: Path | None = None, **flags: Any) -> Settings:
    """The settings from all sources; flags that are None are not given.

    The file is `config`, else that of `KERNELSVC_CONFIG`, else `config/kernelsvc.toml` where there
    is one. Raises FileNotFoundError for a file that was named and is not there, ValueError for one
    that is not TOML, and pydantic's ValidationError, which names the setting.
    """
    named = config or (Path(path) if (path := os.environ.get("KERNELSVC_CONFIG")) else None)
    if named is not None and not named.is_file():
        raise FileNotFoundError(f"there is no configuration file {named}")

    class FromFile(Settings):
        model_config = SettingsConfigDict(toml_file=named or DEFAULT_CONFIG)

    given = {name: value for name, value in flags.items() if value is not None}
    try:
        settings = FromFile(**given)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{named or DEFAULT_CONFIG} is not TOML: {error}") from error
    return Settings.model_construct(**{n: getattr(settings, n) for n in Settings.model_fields})
