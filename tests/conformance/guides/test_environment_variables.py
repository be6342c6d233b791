"""What ERA's guide to environment variables shows."""

READ = "import os; print(os.environ.get('API_KEY'))"


def test_code_can_tell_that_it_is_in_a_session(session):
    said = session.says(
        "import os\nfor name in ('ERA_SESSION', 'ERA_SESSION_ID', 'ERA_LANGUAGE'):\n"
        "    print(os.environ.get(name))"
    )
    assert said.splitlines() == ["true", session.id, "python"]


def test_a_secret_is_there_for_the_run_that_it_is_given_to_only(session):
    given = {"API_KEY": "secret123"}
    said = [session.says(READ, env=env) for env in (given, {}, given)]
    assert said == ["secret123\n", "None\n", "secret123\n"]


def test_a_secret_is_nowhere_in_what_is_kept(session):
    run = session.run("1", env={"API_KEY": "secret-4711"})
    for path in ("", "/runs", f"/runs/{run['run_id']}", "/files"):
        assert "secret-4711" not in session.send("GET", path).text


def test_several_variables_at_once(session):
    env = {"API_KEY": "a", "DB_PASSWORD": "b", "JWT_SECRET": "c"}
    said = session.says(f"import os\nfor name in {list(env)}: print(os.environ[name])", env=env)
    assert said == "a\nb\nc\n"


def test_other_values_from_one_run_to_the_next(session):
    code = "import os; print(os.environ['ENVIRONMENT'], os.environ['LOG_LEVEL'])"
    for env in ({"ENVIRONMENT": "production", "LOG_LEVEL": "info"},
                {"ENVIRONMENT": "development", "LOG_LEVEL": "debug"}):  # fmt: skip
        assert session.says(code, env=env) == f"{env['ENVIRONMENT']} {env['LOG_LEVEL']}\n"


def test_variables_of_one_session_are_not_those_of_another(session, make_session):
    session.says("import os; os.environ['API_KEY'] = 'mine'")
    assert make_session().says(READ) == "None\n"
    session.says("del os.environ['API_KEY']")
