"""/metrics: what the service counts of itself."""

import httpx
from prometheus_client.parser import text_string_to_metric_families

from kernelsvc.app import serving
from tests.support.api import Api
from tests.support.keys import clients, make_key
from tests.support.problems import problem_of, raw
from tests.support.waiting import eventually


async def counted(api):
    answer = await api.http.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }


async def test_runs_and_kernels_are_counted_by_how_they_ended_and_began(make_settings):
    async with (
        serving(make_settings(pool_min=1, pool_max=1)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=60) as http,
    ):
        api = Api(http)

        async def is_ready():
            return (await counted(api))["kernelsvc_pool_members",] == 1

        await eventually(is_ready, seconds=60)
        await api.create("a")
        await api.run("1", "a")
        await api.run("1 / 0", "a")
        await api.run("import os; os._exit(0)", "a")
        await api.run("1", "a")
        found = await counted(api)
        assert found["kernelsvc_run_seconds_count", "completed"] == 3
        assert found["kernelsvc_run_seconds_count", "failed"] == 1
        assert found["kernelsvc_kernel_start_seconds_count", "claimed"] == 1
        assert found["kernelsvc_kernel_start_seconds_count", "restored"] == 1
        assert ("kernelsvc_kernel_start_seconds_count", "started") not in found
        assert found["kernelsvc_sandboxes",] == found["kernelsvc_sessions_awake",] == 1
        assert found["kernelsvc_kernel_start_failures_total",] == 0
        await api.create("b", allowInternetAccess=True)
        await api.run("1", "b")
        assert (await counted(api))["kernelsvc_kernel_start_seconds_count", "started"] >= 1


async def test_only_a_key_with_the_scope_admin_may_read_them(make_settings):
    settings = make_settings()
    run = await make_key(settings)
    admin = await make_key(settings, admin=True)
    async with serving(settings) as server, clients(server, None, run, admin) as found:
        nobody, runner, administrator = found
        problem_of(await raw(nobody, "GET", "/metrics", ""), 401, "unauthorized")
        problem_of(await raw(runner, "GET", "/metrics", ""), 403, "forbidden")
        assert ("kernelsvc_pool_members",) in await counted(administrator)
