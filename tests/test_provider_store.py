"""The store in a database: who waits for whom, how often it is spoken to, and what a lost connection does."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from databases import fresh_database

from coreota.jobs import JobStatus
from coreota.provider.books import Books
from coreota.provider.outbox import DurableJobs
from coreota.provider.sqlstore import SqlStore
from coreota.topics import Message


class Turns:
    """A way to a server that counts how often the client speaks after the server has spoken: round trips."""

    def __init__(self, port: int) -> None:
        self.target, self.count = port, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            server, last = socket.create_connection(("127.0.0.1", self.target)), ["server"]
            for one, other, who in ((client, server, "client"), (server, client, "server")):
                threading.Thread(target=self._pump, args=(one, other, who, last), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket, who: str, last: list[str]) -> None:
        while True:
            try:
                data = one.recv(65536)
            except OSError:
                data = b""
            if not data:
                other.close()
                return
            self.count += who == "client" and last[0] == "server"
            last[0] = who
            other.sendall(data)

    def of(self, work: Callable[[], object]) -> int:
        """Round trips for some work."""
        before = self.count
        work()
        return self.count - before


@pytest.fixture
def turns(postgresql: str) -> Iterator[tuple[Turns, str]]:
    """The way to a new database, and its URL by that way."""
    url = fresh_database(postgresql, "turns")
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    way = Turns(port)
    yield way, url.replace(f":{port}/", f":{way.port}/")
    way.listener.close()


def test_round_trips(turns: tuple[Turns, str]) -> None:
    """They depend neither on the size of the fleet nor on how often it was asked before."""
    way, url = turns
    with SqlStore(url) as store:
        jobs = DurableJobs(store, name="one")
        jobs.connected(0)
        jobs.handle_timer(0)

        def say(rest: str, body: bytes = b"{}") -> int:
            return way.of(lambda: jobs.receive(Message(f"$aws/things/t7/jobs/{rest}", body), 20))

        things = [f"t{number}" for number in range(200)]
        for number in range(8):  # the driver prepares a statement that it has seen five times
            create = way.of(lambda number=number: jobs.create_job(f"j{number}", {"a": 1}, things, 10))  # type: ignore[misc]
            get, start = say("get"), say("start-next")
            progress = say(f"j{number}/update", b'{"status":"IN_PROGRESS"}')
            finish = say(f"j{number}/update", b'{"status":"SUCCEEDED"}')
        assert (get, start, progress, finish) == (3, 6, 6, 8)
        assert create < 30
        assert way.of(lambda: jobs.cancel_job("j7", 30)) < 20


def test_who_looks_waits_for_nobody(database: str) -> None:
    """While a transaction writes, others see the books as they were before."""
    with SqlStore(database) as store:

        def writes(books: Books) -> list[str]:
            books.join("lights", "lamp")
            assert books.members("lights") == ["lamp"]
            return store.read(lambda others: others.members("lights"))

        assert store.run(writes) == []
        assert store.read(lambda books: books.members("lights")) == ["lamp"]


def test_a_connection_that_died_is_replaced(postgresql: str) -> None:
    """It shows at the first word, and nothing was done by then."""
    import psycopg

    url = fresh_database(postgresql, "dead")
    with SqlStore(url) as store:
        store.run(lambda books: books.join("lights", "lamp"))
        with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = 'dead' AND pid <> pg_backend_pid()"
            )
        store.run(lambda books: books.join("lights", "door"))
        assert store.read(lambda books: books.members("lights")) == ["door", "lamp"]


def test_what_one_provider_owes_another_tells(database: str) -> None:
    """Who dies with a duty is noticed within three beats and a look."""
    with SqlStore(database) as store:
        dies, lives = DurableJobs(store, name="dies"), DurableJobs(store, name="lives")
        for one in (dies, lives):
            one.connected(100)
            one.handle_timer(100)
        dies.create_job("j", {}, ["lamp"], 103)
        heard: list[float] = []
        for now in range(101, 130):
            lives.handle_timer(now)
            heard += [now for one in lives.messages_to_send(now) if isinstance(one, Message)]
        assert heard == [115, 115]
        assert lives.pending("lamp")[0].status is JobStatus.QUEUED
