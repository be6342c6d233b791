"""What ERA's guide to files shows."""

import json

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


def test_files_of_any_kind_are_put_and_got(session):
    files = {"data.json": b'{"a": 1}', "users.csv": b"name,age\nAda,36\n", "logo.png": PNG}
    kinds = {"data.json": "application/json", "users.csv": "text/csv", "logo.png": "image/png"}
    for name, content in files.items():
        answer = session.put(name, content, Content_Type=kinds[name])
        assert answer.status_code == 200
        assert answer.json()["size"] == len(content)
    for name, content in files.items():
        assert session.get(name).content == content


def test_input_goes_in_code_works_on_it_and_the_result_comes_out(make_session):
    session = make_session(persistent=True)
    session.put("input.json", b'{"users": [{"id": 1, "name": "Ada"}]}')
    said = session.says(
        "import json\n"
        "with open('input.json') as f: data = json.load(f)\n"
        "print('processed', len(data['users']))\n"
        "with open('output.json', 'w') as f: json.dump({'count': len(data['users'])}, f)"
    )
    assert said == "processed 1\n"
    assert session.get("output.json").json() == {"count": 1}
    assert session.paths() == ["input.json", "output.json"]
    assert session.show()["file_count"] == 2


def test_a_file_is_made_read_added_to_and_deleted_by_code(session):
    session.says("with open('hello.txt', 'w') as f: _ = f.write('Hello')")
    assert session.says("with open('hello.txt') as f: print(f.read())") == "Hello\n"
    session.says("with open('hello.txt', 'a') as f: _ = f.write('\\nAnother line')")
    assert session.get("hello.txt").text == "Hello\nAnother line"
    session.says("import os; os.path.exists('hello.txt') and os.remove('hello.txt')")
    assert session.get("hello.txt").status_code == 404


def test_json_is_written_read_and_changed(session):
    session.says(
        "import json\nusers = [{'id': 1, 'score': 100}]\n"
        "with open('users.json', 'w') as f: json.dump({'users': users}, f, indent=2)"
    )
    session.says(
        "with open('users.json') as f: data = json.load(f)\n"
        "data['users'].append({'id': 2, 'score': 85})\n"
        "data['count'] = len(data['users'])\n"
        "with open('users.json', 'w') as f: json.dump(data, f)"
    )
    assert json.loads(session.get("users.json").content)["count"] == 2


def test_directories_are_made_listed_and_walked(make_session):
    session = make_session()
    said = session.says(
        "import os\nos.makedirs('data', exist_ok=True)\nos.makedirs('project/src/utils')\n"
        "for name in ('data/a', 'project/src/b'): open(name, 'w').close()\n"
        "print(sorted(name for name in os.listdir('.') if not name.startswith('.')))\n"
        "print(os.listdir('data'))\n"
        "for root, dirs, files in sorted(os.walk('project')): print(root, files)"
    )
    assert said.splitlines() == [
        "['data', 'project']",
        "['a']",
        "project []",
        "project/src ['b']",
        "project/src/utils []",
    ]


def test_sizes_and_times_of_files_are_there(session):
    session.put("sized", b"x" * 1536)
    said = session.says(
        "import os, time\nstat = os.stat('sized')\n"
        "print(stat.st_size, abs(time.time() - stat.st_mtime) < 60, os.path.exists('missing'))"
    )
    assert said == "1536 True False\n"


def test_bytes_are_written_and_read(session):
    session.says("with open('b.dat', 'wb') as f: _ = f.write(bytes([0x48, 0x65, 0x79, 0, 0xFF]))")
    assert session.says("print(open('b.dat', 'rb').read().hex())") == "48657900ff\n"
    assert session.get("b.dat").content == b"Hey\0\xff"


def test_tables_are_written_and_worked_on(session):
    said = session.says(
        "import csv\n"
        "rows = [['name', 'age'], ['Ada', 36], ['Alan', 41]]\n"
        "with open('people.csv', 'w', newline='') as f: csv.writer(f).writerows(rows)\n"
        "with open('people.csv') as f: people = list(csv.DictReader(f))\n"
        "print(len(people), sum(int(each['age']) for each in people) / len(people))"
    )
    assert said == "2 38.5\n"
    assert session.get("people.csv").content == b"name,age\r\nAda,36\r\nAlan,41\r\n"


def test_a_log_grows(session):
    code = "with open('app.log', 'a') as f: print('INFO', 'step', file=f)"
    for _ in range(3):
        session.says(code)
    assert session.get("app.log").text == "INFO step\n" * 3


def test_a_pipeline_goes_by_files_from_step_to_step(make_session):
    session = make_session()
    session.says(
        "import json, os\nos.makedirs('data')\n"
        "raw = [{'value': n, 'on': n != 20} for n in (10, 20, 15)]\n"
        "with open('data/raw.json', 'w') as f: json.dump(raw, f)"
    )
    session.says(
        "with open('data/raw.json') as f: raw = json.load(f)\n"
        "kept = [2 * each['value'] for each in raw if each['on']]\n"
        "with open('data/processed.json', 'w') as f: json.dump(kept, f)"
    )
    session.says(
        "with open('data/processed.json') as f: kept = json.load(f)\n"
        "with open('data/report.txt', 'w') as f: _ = f.write(f'total {sum(kept)}\\n')"
    )
    assert session.get("data/report.txt").text == "total 50\n"


def test_a_file_that_is_missing_or_broken_is_the_codes_to_handle(session):
    code = (
        "import json\ntry: print(len(json.load(open('maybe.json'))))\n"
        "except FileNotFoundError: print('missing')\n"
        "except json.JSONDecodeError: print('broken')"
    )
    assert session.says(code) == "missing\n"
    session.put("maybe.json", b"{")
    assert session.says(code) == "broken\n"
    session.put("maybe.json", b"[1, 2]")
    assert session.says(code) == "2\n"
