"""Reads back the file of a finished offline run of W&B.

The file is a LevelDB log: a header of 7 bytes (``:W&B``, a magic number, a version), then blocks of 32 KiB
holding chunks of [crc32, length, type, data]; a record is one chunk or several in a row.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, CHUNK = 7, 32 * 1024, struct.Struct("<IHB")
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[Record]:
    """All records of a file, their checksums verified."""
    data = path.read_bytes()
    magic, version, _ = struct.unpack("<4sHB", data[:HEADER])
    assert (magic, version) == (b":W&B", 0xBEE1), "not a run of W&B"
    at, parts = HEADER, []
    while at + CHUNK.size <= len(data):
        left = BLOCK - at % BLOCK
        if left < CHUNK.size:
            at += left
            continue
        checksum, length, kind = CHUNK.unpack_from(data, at)
        if kind == 0:
            break
        content = data[at + CHUNK.size : at + CHUNK.size + length]
        assert zlib.crc32(bytes([kind]) + content) == checksum, f"damaged at byte {at}"
        at += CHUNK.size + length
        parts.append(content)
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record


class OfflineRun:
    """What an offline run holds.

    Attributes:
        config: The run's configuration.
        history: For each logged key all its values.
        artifacts: The name of each artifact and the paths in it.
        aliases: The name of each artifact and the aliases of each of its versions; not ``latest``.
        metadata: The name of each artifact and what is told of its last version.
        metrics: Each metric that has a summary, its axis and which values of it are kept.
        id: The run's id.
        name: The run's name.
        group: The group it belongs to.
        text: All that would be sent, as text; not where files that wait to be sent lie.
    """

    def __init__(self, path: Path) -> None:
        self.config: dict[str, Any] = {}
        self.history: dict[str, list[Any]] = {}
        self.artifacts: dict[str, list[str]] = {}
        self.aliases: dict[str, list[set[str]]] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, tuple[str, set[str]]] = {}
        self.id = self.name = self.group = self.text = ""
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                self.id = record.run.run_id or self.id
                self.name = record.run.display_name or self.name
                self.group = record.run.run_group or self.group
                self._read_config(record.run.config)
            elif kind == "config":
                self._read_config(record.config)
            elif kind == "history":
                for item in record.history.item:
                    key = item.key or "/".join(item.nested_key)
                    self.history.setdefault(key, []).append(json.loads(item.value_json))
            elif kind == "artifact":
                self._read_artifact(record.artifact)
            elif kind == "request" and record.request.HasField("log_artifact"):
                self._read_artifact(record.request.log_artifact.artifact)
            elif kind == "metric" and record.metric.HasField("summary"):
                kept = {field.name for field, value in record.metric.summary.ListFields() if value}
                self.metrics[record.metric.name] = record.metric.step_metric, kept
            self.text += str(record)

    def _read_config(self, config: Any) -> None:
        for item in config.update:
            self.config[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)

    def _read_artifact(self, artifact: Any) -> None:
        self.artifacts[artifact.name] = [entry.path for entry in artifact.manifest.contents]
        self.aliases.setdefault(artifact.name, []).append(set(artifact.aliases) - {"latest"})
        self.metadata[artifact.name] = json.loads(artifact.metadata or "{}")
        for entry in artifact.manifest.contents:
            entry.local_path = ""
