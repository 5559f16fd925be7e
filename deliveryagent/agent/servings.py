"""Parts of large contents, read for the workers that ask for them.

Guarantees: every question is answered, in the order a worker asked; a worker that does not read gets nothing
more, so what is on its way to it stays within ``UNREAD`` octets and the parts just being read, however many
deliveries wait for theirs. Never keeps a part.
"""

import asyncio
from functools import partial

from deliveryagent.agent import frames
from deliveryagent.agent.crew import Worker
from deliveryagent.queue import claims
from deliveryagent.queue.thread import Database

READ_AT_ONCE = 8  # parts, for one worker
UNREAD = 1024 * 1024  # octets said to a worker beyond which it gets no part until it has read some


def serve(database: Database, worker: Worker) -> None:
    """Read what the worker asked for (``Worker.wanted``), as far as it takes it.

    To be called for every question and, while some are open, for whatever the worker says: it has a word to say
    each second, and after each part.
    """
    while worker.wanted and worker.reading < READ_AT_ONCE and worker.unsent < UNREAD:
        wanted = worker.wanted.popleft()
        worker.reading += 1
        reading = database.submit(claims.part, (wanted.queue_id, wanted.part))
        reading.add_done_callback(partial(_send, database, worker, wanted))


def _send(
    database: Database,
    worker: Worker,
    wanted: frames.Fetch,
    answer: "asyncio.Future[bytes | None]",
) -> None:
    worker.reading -= 1
    data = None if answer.cancelled() or answer.exception() else answer.result()
    worker.say(frames.Part(wanted.queue_id, wanted.part, data))
    serve(database, worker)
