"""A real server in a thread, and what the dialogue system answers without one."""

import contextlib
import threading

import uvicorn

from chatlib.serve import server
from chatlib.serve.chat import Chat, Sampling, printable

ORDER = "where is my order"


@contextlib.contextmanager
def serving(assistants, limits=None, access=None):
    """A server on a free port, in a thread; its address."""
    listening = server.listen("127.0.0.1", 0)
    app = server.build(assistants, limits or server.Limits(), access or server.Access())
    running = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not end"


def alone(assistant, text, tokens=12, facts="", **sampling):
    """What the dialogue system answers, without a server."""
    sampling = Sampling(max_new_tokens=tokens, **sampling)
    return printable(Chat(assistant, facts, sampling).ask(text))
