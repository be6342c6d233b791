"""What ERA's quickstart shows of sessions."""


def test_a_counter_counts_on(make_session):
    session = make_session(persistent=True, data={"project": "analysis", "user": "developer"})
    made = session.created
    assert (made["file_count"], made["total_size_bytes"], made["metadata"]) == (0, 0, {})
    assert made["data"] == {"project": "analysis", "user": "developer"}
    session.says("counter = 0")
    add = "counter += 1\nprint(f'Counter value: {counter}')"
    assert [session.says(add) for _ in range(2)] == ["Counter value: 1\n", "Counter value: 2\n"]


def test_lines_are_written_and_counted(session):
    session.says("with open('data.txt', 'w') as f: _ = f.write('Line 1\\nLine 2\\nLine 3')")
    said = session.says(
        "lines = open('data.txt').readlines()\nprint(len(lines))\n"
        "for i, line in enumerate(lines, 1): print(f'  {i}: {line.strip()}')"
    )
    assert said == "3\n  1: Line 1\n  2: Line 2\n  3: Line 3\n"


def test_a_whole_analysis(make_session):
    session = make_session(data={"project": "temperatures"})
    said = session.says("readings = [72, 75, 68, 71, 73]\nprint('loaded', len(readings))")
    assert said == "loaded 5\n"
    assert session.says(
        "mean = sum(readings) / len(readings)\n"
        "print(f'Average: {mean:.1f}°F')\nprint(f'Range: {min(readings)}-{max(readings)}°F')"
    ) == ("Average: 71.8°F\nRange: 68-75°F\n")
    session.says("with open('results.txt', 'w') as f: print(f'{mean:.1f}°F', file=f)")
    assert session.get("results.txt").content == "71.8°F\n".encode()
    shown = session.show()
    assert (shown["file_count"], shown["run_count"]) == (1, 3)
    assert session.delete().json()["success"] is True
