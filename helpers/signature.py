"""Who vouches for an archive: signatures of ssh-keygen(1), and the signers trusted here."""

import os
import tempfile

from torpor import process
from torpor.container import DEFINITION_ROOT
from torpor.errors import ArchiveError, TorporError

TRUSTED = f"{DEFINITION_ROOT}/trusted"  # ALLOWED SIGNERS of ssh-keygen(1)
MAX_BYTES = 1 << 16
_NAMESPACE = "torpor-archive"  # a signature for another purpose does not count
_TIMEOUT_S = 300.0  # somebody may have to type a passphrase


def require_signer(key: str) -> None:
    """That sign() can work. Raises TorporError."""
    _require_program()
    if not os.path.isfile(key):
        raise TorporError(f"{key}: there is no such key", "make one: ssh-keygen -t ed25519")


def sign(key: str, content: bytes) -> bytes:
    """The signature of content by a private key, or by the agent's of a public one.

    Raises TorporError.
    """
    with _Files(content) as files:
        argv = ["ssh-keygen", "-q", "-Y", "sign", "-f", key, "-n", _NAMESPACE, files.content]
        status, said = _run(argv)
        if status:
            raise TorporError(f"{key}: cannot sign: {said}", "is it a private key of yours?")
        with open(f"{files.content}.sig", "rb") as file:
            return file.read(MAX_BYTES)


def verify(content: bytes, signed: bytes, where: str) -> str:
    """Which of the signers that TRUSTED names has signed content. Raises ArchiveError."""
    _require_program()
    with _Files(content, signed) as files:
        asked = ["-f", TRUSTED, "-s", files.signature]
        argv = ["ssh-keygen", "-Y", "find-principals", *asked]
        status, said = _run(argv)
        who = said.splitlines()[0].strip() if said.strip() else ""
        if status or not who:
            raise ArchiveError(
                f"{where}: its signer is none of those in {TRUSTED}",
                "add the signer's public key there, see torpor(1); or take it with --trust",
            )
        argv = ["ssh-keygen", "-Y", "verify", *asked, "-I", who, "-n", _NAMESPACE]
        status, said = _run(argv, files.content)
        if status:
            raise ArchiveError(f"{where}: the signature by {who} is not right: {said}")
    return who


def _require_program() -> None:
    if not process.find("ssh-keygen"):
        raise TorporError(
            "ssh-keygen, which signs archives, is not here", "apt install openssh-client"
        )


def _run(argv: list[str], content: str = os.devnull) -> tuple[int, str]:
    """Exit status and the first line that it says, on either stream."""
    reader, writer = os.pipe()
    stdin = os.open(content, os.O_RDONLY | os.O_CLOEXEC)
    try:
        child = process.spawn(argv, stdin=stdin, stdout=writer, stderr=writer)
    finally:
        os.close(writer)
        os.close(stdin)
    status, said = process.collect(child, reader, _TIMEOUT_S, MAX_BYTES)
    lines = said.strip().splitlines()
    return status, lines[0] if lines else ""


class _Files:
    """ssh-keygen takes a signature, and what it signs, by their paths."""

    def __init__(self, content: bytes, signed: bytes = b"") -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="torpor-")
        self.content = f"{self._directory.name}/manifest"
        self.signature = f"{self._directory.name}/signature"
        for path, text in ((self.content, content), (self.signature, signed)):
            with open(path, "xb") as file:
                file.write(text)

    def __enter__(self) -> "_Files":
        return self

    def __exit__(self, *_: object) -> None:
        self._directory.cleanup()
