"""A certificate for ``127.0.0.1``, made by openssl, and clients that trust it."""

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

CURVE = "ec_paramgen_curve:prime256v1"
MAKE = "req -x509 -newkey ec -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"


class Certificate:
    """Certificate and key of a server, in files of ``folder``. Skips the test if there is no openssl."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("openssl") is None:
            pytest.skip("openssl makes the certificate")
        file, key = str(folder / "certificate.pem"), str(folder / "key.pem")
        command = ["openssl", *MAKE.split(), "-pkeyopt", CURVE, "-out", file, "-keyout", key]
        subprocess.run(command, check=True, capture_output=True)
        self.options = "--ssl-certfile", file, "--ssl-keyfile", key  # of uvicorn
        self.trust = ssl.create_default_context(cafile=file)  # of a client
