"""A certificate nobody vouches for, made on the spot for the lab's hosts that offer STARTTLS.

Uses the ``openssl`` command where it is installed. Never keeps the key longer than it takes to load
it.
"""

import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


def self_signed(names: Sequence[str]) -> ssl.SSLContext | None:
    """A server's TLS context for these names, or None where there is no ``openssl`` command."""
    openssl = shutil.which("openssl")
    if openssl is None:
        return None
    with tempfile.TemporaryDirectory(prefix="deliveryagent-lab-") as directory:
        key, chain = Path(directory, "key.pem"), Path(directory, "chain.pem")
        command = [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=lab"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=" + ",".join(f"DNS:{name}" for name in names)),
            *("-keyout", str(key), "-out", str(chain)),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=30)  # noqa: S603 - our words
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
    return context
