"""A real Postfix as a receiver, with a Maildir behind one address; no double, but several tests' peer."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from deliveryagent.lab.postfix import Postfix, unavailable
from tests.doubles.courier import free_port


@contextlib.contextmanager
def maildir_postfix(settings: Mapping[str, str] | None = None) -> Iterator[Postfix]:
    """A Postfix that knows ok+anything@real.test; where there is none, the test is skipped."""
    if reason := unavailable():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="deliveryagent-test-") as name:
        directory = Path(name)  # pytest's own directories are closed to the user postfix
        directory.chmod(0o755)
        (directory / "mail").mkdir()
        os.chown(directory / "mail", 65534, 65534)
        (directory / "mailboxes").write_text("/^ok.*@real\\.test$/ inbox/\n")
        every = {
            "virtual_mailbox_domains": "real.test",
            "virtual_mailbox_base": f"{directory}/mail",
            "virtual_mailbox_maps": f"regexp:{directory}/mailboxes",
            "virtual_uid_maps": "static:65534",
            "virtual_gid_maps": "static:65534",
            **(settings or {}),
        }
        with Postfix(directory, port=free_port(), settings=every) as postfix:
            yield postfix
