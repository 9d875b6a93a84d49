"""What the environment says; a command's own options come first."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Read from TSROLLUP_URL, TSROLLUP_DATA_DIR, TSROLLUP_OPEN_FOLDERS and TSROLLUP_DEBUG."""

    model_config = SettingsConfigDict(env_prefix="TSROLLUP_", env_ignore_empty=True)

    url: str | None = None
    data_dir: Path | None = None
    open_folders: bool = False
    debug: bool = False
