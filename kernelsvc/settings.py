"""The configuration: defaults, then a TOML file, then `KERNELSVC_*` variables, then flags.

Read by `app` and `cli` only; everything else is given values. Times are in seconds, or durations
such as "5m"; sizes in bytes.
"""

import contextlib
import math
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from kernelsvc.models.fields import parse_duration

DEFAULT_CONFIG = Path("config/kernelsvc.toml")


def _duration(value: Any) -> float:
    """A duration; in the environment a number is text, too."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return parse_duration(float(value))
    return parse_duration(value)


Duration = Annotated[float, BeforeValidator(_duration)]


def _data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(base).expanduser() / "kernelsvc"


class Settings(BaseSettings):
    """Everything that can be configured; `config/kernelsvc.toml` explains each."""

    model_config = SettingsConfigDict(env_prefix="KERNELSVC_", extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8787
    base_url: str | None = None
    max_body_bytes: PositiveInt = 16 * 1024 * 1024
    header_timeout: Duration = 60.0

    data_dir: Path = Field(default_factory=_data_dir)
    runtime_dir: Path | None = None
    database_url: str | None = None
    keep_runs: PositiveInt = 50

    default_timeout: Duration = 30.0
    max_timeout: Duration = 3600.0
    interrupt_grace: Duration = 2.0
    terminate_grace: Duration = 2.0
    sleep_after: Duration = 300.0
    kernel_start_timeout: Duration = 60.0
    drain_timeout: Duration = 30.0
    max_queued_runs: PositiveInt = 16
    max_output_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    max_data_bytes: PositiveInt = 1024 * 1024
    max_workspace_bytes: PositiveInt = 1024 * 1024 * 1024

    log_format: Literal["auto", "human", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _is_consistent(self) -> "Settings":
        for name in ("max_timeout", "default_timeout", "interrupt_grace", "terminate_grace"):
            if math.isinf(getattr(self, name)):
                raise ValueError(f"{name} cannot be never")
        if self.default_timeout > self.max_timeout:
            raise ValueError("default_timeout is above max_timeout")
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
    return Settings.model_construct(**settings.model_dump())
