async def test_memory_survives_from_run_to_run(api):
    await api.create()
    assert (await api.run("x = 20"))["exit_code"] == 0
    assert (await api.run("x * 2 + 2"))["text"] == "42"
