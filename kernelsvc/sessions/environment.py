"""The environment variables of a run."""

from collections.abc import Mapping

from kernelsvc.models.session import SessionRecord


def run_environment(
    record: SessionRecord, of_run: Mapping[str, str], base_url: str
) -> dict[str, str]:
    """The session's variables, over them the run's, over them those that ERA names."""
    return {
        **record.env,
        **of_run,
        "ERA_SESSION": "true",
        "ERA_SESSION_ID": record.id,
        "ERA_LANGUAGE": record.language,
        "ERA_BASE_URL": base_url,
        "ERA_PROXY_URL": f"{base_url}/proxy/{record.id}",
    }
