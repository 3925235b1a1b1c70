"""A server of a test's own, on free ports, and the client code generated from `proto/`."""

import importlib
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]


def generate(into: Path) -> None:
    """Compiles every file of `proto/` to Python modules in `into`, and makes them importable."""
    protos = ROOT / "proto"
    files = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    # The descriptors of google/protobuf come with grpcio-tools.
    well_known = Path(protoc.__file__).parent / "_proto"
    into.mkdir()
    flags = [f"-I{protos}", f"-I{well_known}", f"--python_out={into}", f"--grpc_python_out={into}"]
    if protoc.main(["protoc", *flags, *files]) != 0:
        raise RuntimeError("proto/ does not compile")
    sys.path.insert(0, str(into))


def module(name: str):
    """A generated module, such as `write_pb2`."""
    return importlib.import_module(f"steadfast.v1.{name}")


class Server:
    """A running server. Leaving the `with` block kills it."""

    def __init__(self, binary: str, data_dir: Path):
        command = [binary, "serve", "--data-dir", str(data_dir)]
        command += ["--listen", "127.0.0.1:0", "--operations-listen", "127.0.0.1:0"]
        # On a busy machine a write must not be DEFERRED for want of patience.
        command += ["--set", "writes.reply_after=20 s"]
        self.said: list[str] = []
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.data = self.operations = ""
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.match(r"\s+(data|operations)\s+(\S+)", line):
                setattr(self, found[1], found[2])
            if "grpcurl" in line:
                break
        if not self.data or not self.operations:
            self.process.wait(timeout=60)
            raise RuntimeError(f"the server did not start ({self.process.returncode}):\n{''.join(self.said)}")
        # Whatever it says later must not fill the pipe.
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self) -> None:
        with self.process.stderr as said:
            self.said.extend(said)

    def kill(self) -> None:
        """SIGKILL: nothing is written that was not written before."""
        self.process.kill()
        self.process.wait(timeout=60)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is not None:
            print(f"--- the server's log:\n{''.join(self.said[-50:])}", file=sys.stderr)
        if self.process.poll() is None:
            self.kill()
