"""Show a training in TensorBoard: `tensorboard --logdir runs`."""

import os
import platform
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from agmax.core.storage import append, make_folder


class Board:
    """Write the numbers of each row of metrics.jsonl as scalars by step.

    Rows are appended by the calling thread: TensorBoard's own writer fails in a thread of its own, with tracebacks.
    """

    def __init__(self, folder: Path, *, first_step: int = 0) -> None:
        """Continue after `first_step`; later points of an interrupted training are dropped.

        Raises:
            OutputError: the folder cannot be written.
        """
        make_folder(folder)
        seconds, rest = divmod(time.time_ns(), 10**9)
        self._path = folder / f"events.out.tfevents.{seconds:010d}.{platform.node()}.{os.getpid()}.{rest}"
        events = [Event(file_version="brain.Event:2")]
        if first_step:
            events.append(Event(step=first_step + 1, session_log=SessionLog(status=SessionLog.START)))
        self._append(events)

    def __call__(self, row: dict[str, Any]) -> None:
        """Add one row.

        Raises:
            OutputError: the folder cannot be written.
        """
        numbers = {name: value for name, value in {**row, **row["timing"]}.items() if isinstance(value, int | float)}
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        self._append([Event(step=row["step"], summary=Summary(value=[value])) for value in values])

    def _append(self, events: list[Any]) -> None:
        buffer = BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            event.wall_time = time.time()
            writer.write(event.SerializeToString())
        append(self._path, buffer.getvalue())
