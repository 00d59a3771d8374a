"""A small load whose every request is accounted for. Purpose: "nothing was lost" is a number.

A request on a kept connection that closed before any byte of its answer is repeated once on a new
connection and counted apart (`repeated`): HTTP lets a server close an idle connection at any time,
and a client cannot tell which of the two came first (RFC 9112 section 9.3.1).
"""

import threading
import time

from .client import Client, Truncated


class Load:
    """Clients that keep their connections and ask one after the other until `stop()`.

    `answers` counts bodies, `failed` holds what went wrong, `repeated` counts as above.
    """

    def __init__(self, addresses, path="/pid", clients=4, pause=0.001):
        self.answers = {}
        self.failed = []
        self.repeated = 0
        self.longest = 0.0
        self.path = path
        self.pause = pause
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [
            threading.Thread(target=self._run, args=(address,), daemon=True)
            for address in addresses
            for _ in range(clients)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(30)
            assert not thread.is_alive(), "a client hangs"

    @property
    def count(self):
        with self.lock:
            return sum(self.answers.values())

    def _run(self, address):
        client = None
        while not self.ended.is_set():
            began = time.monotonic()
            try:
                client = self._ask(client, address)
            except (OSError, AssertionError) as error:
                with self.lock:
                    self.failed.append(error)
                client = None
            with self.lock:
                self.longest = max(self.longest, time.monotonic() - began)
            time.sleep(self.pause)
        if client:
            client.close()

    def _ask(self, client, address):
        """One request; the connection to go on with, or None."""
        response = None
        if client:
            try:
                response = client.request("GET", self.path)
            except (Truncated, ConnectionError, BrokenPipeError) as error:
                client.close()
                if getattr(error, "response", None) is not None or client.buffer:
                    raise
                with self.lock:
                    self.repeated += 1
        if response is None:
            client = Client(address, 20)
            response = client.request("GET", self.path)
        assert response.status == 200, response
        with self.lock:
            self.answers[response.text] = self.answers.get(response.text, 0) + 1
        if (response.header("Connection") or "").lower() == "close":
            client.close()
            return None
        return client
