"""Servers and archives that mean no good: each ends in a message, in bounded time and memory, and leaves nothing."""

import gzip
import hashlib
import io
import os
import resource
import socket
import socketserver
import stat
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
import zipfile
from email.message import Message
from urllib.request import Request

import pytest

from torchloops.errors import ConfigurationError, DataError
from torchloops.vision import download_data
from torchloops.vision.download import _Redirects

OK = b"HTTP/1.1 200 OK\r\n"
SECRET = b"the secret of this machine"


class Server(socketserver.ThreadingTCPServer):
    """Answers every request with what ``answer(connection, path)`` sends."""

    allow_reuse_address = daemon_threads = True
    block_on_close = False


@pytest.fixture
def answers(monkeypatch):
    """Start a server with an answer of one's own; returns its address."""
    monkeypatch.setattr("torchloops.vision.download._PAUSE", 0)
    servers, over = [], threading.Event()

    def start(answer):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                request = b""
                while b"\r\n\r\n" not in request:
                    request += self.request.recv(4096)
                server.requests += 1
                try:
                    if callable(answer):
                        answer(self.request, over)
                    else:
                        self.request.sendall(answer)
                except OSError:  # the client has gone
                    pass

        server = Server(("127.0.0.1", 0), Handler)
        server.requests = 0
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        return server

    yield start
    over.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def refused(url, folder, match, **options):
    """Download and expect a message; nothing is left in the folder, and it has not taken long."""
    start = time.monotonic()
    with pytest.raises(DataError, match=match):
        download_data(url, folder, **{"retries": 0, "timeout": 5, **options})
    assert os.listdir(folder) == []
    assert time.monotonic() - start < 10


def redirect(where):
    return b"HTTP/1.1 302 Found\r\nLocation: " + where.encode() + b"\r\nContent-Length: 0\r\n\r\n"


def test_a_redirect_to_a_file_of_this_machine_is_not_followed(answers, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    server = answers(redirect((tmp_path / "secret").as_uri()))
    refused(f"{server.url}/a.bin", tmp_path / "data", "file://.* is not allowed")


@pytest.mark.parametrize(
    "where",
    ["ftp://127.0.0.1:1/a.bin", "http://[/a.bin", "http://127.0.0.1:x/a.bin", f"http://{'a' * 300}/a.bin", "//"],
)
def test_a_redirect_to_nowhere_is_reported(answers, tmp_path, where):
    refused(f"{answers(redirect(where)).url}/a.bin", tmp_path / "data", "a.bin")


def test_a_loop_of_redirects_ends(answers, tmp_path):
    server = answers(redirect("/a.bin"))
    refused(f"{server.url}/a.bin", tmp_path / "data", "HTTP 302 .*infinite loop", retries=9)
    assert server.requests <= 11


def test_a_redirect_to_another_server_keeps_the_name_that_was_asked_for(answers, tmp_path):
    other = answers(OK + b"Content-Length: 4\r\n\r\nbody")
    port = other.server_address[1]
    server = answers(redirect(f"http://localhost:{port}/../../other.name"))
    assert download_data(f"{server.url}/a.bin", tmp_path) == tmp_path / "a.bin"
    assert (tmp_path / "a.bin").read_bytes() == b"body"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize(
    ("where", "followed"), [("https://b/a", True), ("http://b/a", False), ("ftp://b/a", False), ("file:///a", False)]
)
def test_https_leads_to_nothing_but_https(where, followed):
    request = Request("https://a/a")
    arguments = (request, None, 302, "Found", Message(), where)
    if followed:
        assert _Redirects().redirect_request(*arguments).full_url == where
    else:
        with pytest.raises(DataError, match="not followed"):
            _Redirects().redirect_request(*arguments)


@pytest.mark.parametrize(
    "length", ["-5", "abc", "5, 5", "", "1e3", "\u0665", "9" * 5000, "5\r\nContent-Length: 7", "99999999999999999999"]
)
def test_a_length_that_is_none_is_refused(answers, tmp_path, length):
    server = answers(OK + f"Content-Length: {length}\r\n\r\nhello".encode())
    refused(f"{server.url}/a.bin", tmp_path / "data", "announced with a length|more than max_bytes", retries=9)
    assert server.requests == 1


def test_less_than_was_announced_is_a_broken_connection(answers, tmp_path):
    server = answers(OK + b"Content-Length: 500\r\n\r\nhello")
    refused(f"{server.url}/a.bin", tmp_path / "data", r"broke after 5 of 500 bytes \(3 attempts\)", retries=2)
    assert server.requests == 3


def test_more_than_was_announced_is_not_read(answers, tmp_path):
    server = answers(OK + b"Content-Length: 5\r\n\r\nhello and more")
    url = f"{server.url}/a.bin"
    refused(url, tmp_path / "data", "another sha256", sha256=hashlib.sha256(b"hello and more").hexdigest())
    assert download_data(url, tmp_path / "data").read_bytes() == b"hello"


@pytest.mark.parametrize("body", [b"5\r\nhello\r\n", b"ffff\r\nhello", b"5\r\nhello\r\nxyz\r\n", b"-5\r\nhello\r\n"])
def test_chunks_that_break_off_are_reported(answers, tmp_path, body):
    server = answers(OK + b"Transfer-Encoding: chunked\r\n\r\n" + body)
    refused(f"{server.url}/a.bin", tmp_path / "data", "could not be downloaded")


@pytest.mark.parametrize("status", ["204 No Content", "206 Partial Content", "203 Other"])
def test_an_answer_that_is_not_the_whole_file_is_refused(answers, tmp_path, status):
    server = answers(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    refused(f"{server.url}/a.bin", tmp_path / "data", f"HTTP {status[:3]}")


def test_a_server_that_is_busy_is_asked_again(answers, tmp_path):
    busy = iter([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"] * 2)
    server = answers(lambda connection, _: connection.sendall(next(busy, OK + b"Content-Length: 4\r\n\r\nbody")))
    assert download_data(f"{server.url}/a.bin", tmp_path).read_bytes() == b"body"
    assert server.requests == 3


@pytest.mark.parametrize("answer", [b"", b"hello\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 200" + b"x" * 100_000])
def test_an_answer_that_is_no_http_is_reported(answers, tmp_path, answer):
    refused(f"{answers(answer).url}/a.bin", tmp_path / "data", "could not be downloaded")


@pytest.mark.parametrize("header", [b"X: y\r\n" * 1_000, b"X: " + b"y" * 1_000_000], ids=["many", "long"])
def test_endless_headers_are_not_read(answers, tmp_path, header):
    def answer(connection, over):
        connection.sendall(OK)
        while not over.is_set():
            connection.sendall(header)

    refused(f"{answers(answer).url}/a.bin", tmp_path / "data", "could not be downloaded")


def test_an_endless_body_is_stopped(answers, tmp_path):
    def answer(connection, over):
        connection.sendall(OK + b"\r\n")
        while not over.is_set():
            connection.sendall(bytes(100_000))

    refused(f"{answers(answer).url}/a.bin", tmp_path / "data", "more than max_bytes=1,000,000", max_bytes=1_000_000)


@pytest.mark.parametrize(
    "start",
    [
        b"",
        OK,
        OK + b"X: ",
        OK + b"\r\n",
        OK + b"Content-Length: 1000\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n0",
    ],
    ids=["status", "headers", "one header", "body", "known length", "trailers"],
)
def test_slow_drips_end_in_time(answers, tmp_path, start):
    def answer(connection, over):
        connection.sendall(start)
        while not over.wait(0.02):
            connection.sendall(b"1")

    begin = time.monotonic()
    refused(f"{answers(answer).url}/a.bin", tmp_path, "longer than max_seconds=0.5", max_seconds=0.5, timeout=60)
    assert time.monotonic() - begin < 5


def test_a_server_that_says_nothing_is_given_up(answers, tmp_path):
    def answer(connection, over):
        over.wait(20)

    refused(f"{answers(answer).url}/a.bin", tmp_path, r"timed out \(2 attempts\)", timeout=0.2, retries=1)


def test_a_server_that_takes_no_connection_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unheard:
        refused(f"http://127.0.0.1:{unheard.getsockname()[1]}/a.bin", tmp_path, "timed out", timeout=0.2)


@pytest.mark.parametrize(
    ("name", "match"),
    [("a" * 300, "more than 255 bytes"), ("%F0%9F%90%9C" * 70, "more than 255 bytes"), ("a%0Ab", "names no file")],
)
def test_names_that_no_disk_takes_are_refused(tmp_path, name, match):
    with pytest.raises(ConfigurationError, match=match):
        download_data(f"http://127.0.0.1:1/{name}", tmp_path)


def test_urls_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="is no URL"):
        download_data("http://[/a.zip", tmp_path)
    refused("http://127.0.0.1:1/ a.zip", tmp_path, "could not be downloaded")


def test_the_longest_name_is_kept(answers, tmp_path):
    name = "a" * 255
    server = answers(OK + b"Content-Length: 4\r\n\r\nbody")
    assert download_data(f"{server.url}/{name}", tmp_path).name == name


def test_a_place_that_cannot_be_written_is_named(answers, tmp_path):
    server = answers(OK + b"Content-Length: 4\r\n\r\nbody")
    (tmp_path / "file").touch()
    (tmp_path / "data" / "a.bin").mkdir(parents=True)
    for folder in ("file", "data", "file/below"):
        with pytest.raises(DataError, match=r"a\.bin cannot be written"):
            download_data(f"{server.url}/a.bin", tmp_path / folder)
    assert os.listdir(tmp_path / "data") == ["a.bin"]


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(1_000_000))
    code = (
        "import sys; from torchloops import download_data; from torchloops.errors import DataError\n"
        "try: download_data(sys.argv[1], sys.argv[2])\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, (tmp_path / "a.bin").as_uri(), str(tmp_path / "data")],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)),
        capture_output=True,
        text=True,
    )
    assert "cannot be kept: File too large" in done.stdout, done.stderr
    assert os.listdir(tmp_path / "data") == []


def header(name, kind, size):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def globals_without_end():
    for index in range(2_000):
        said = "".join(f"20 a{index:06d}{at:06d}=xy\n" for at in range(50)).encode()
        yield header("g", tarfile.XGLTYPE, len(said)) + said + bytes(-len(said) % 512)
        yield header(f"{index}", tarfile.REGTYPE, 0)


def pieces_without_end():
    block = b"%011o\0%011o\0" % (512, 512) * 21
    yield header("sparse", tarfile.GNUTYPE_SPARSE, 0)[:482] + b"\1" + bytes(29)
    for _ in range(40_000):
        yield block + b"\1" + bytes(7)


def checked(parts):
    """Headers whose checksum is right again after they were edited."""
    for part in parts:
        if part[257:262] == b"ustar":
            total = sum(part[:148]) + 8 * 32 + sum(part[156:512])
            part = part[:148] + b"%06o\0 " % total + part[156:]
        yield part


HUGE = 200 * 2**20
ENDLESS = {
    "pax": lambda: [header("x", tarfile.XHDTYPE, HUGE), *[bytes(2**20)] * 200],
    "global": lambda: [header("x", tarfile.XGLTYPE, HUGE), *[bytes(2**20)] * 200],
    "long name": lambda: [header("x", tarfile.GNUTYPE_LONGNAME, HUGE), *[b"a" * 2**20] * 200],
    "long link": lambda: [header("x", tarfile.GNUTYPE_LONGLINK, HUGE), *[b"a" * 2**20] * 200],
    "chain": lambda: [header("x", tarfile.XHDTYPE, 0)] * 100_000,
    "many globals": globals_without_end,
    "pieces": pieces_without_end,
}


@pytest.mark.parametrize("parts", ENDLESS.values(), ids=ENDLESS)
def test_endless_headers_of_a_tar_are_not_read(tmp_path, parts):
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        for part in checked(parts()):
            file.write(part)
    assert (tmp_path / "a.tar.gz").stat().st_size < 3_000_000
    tracemalloc.start()
    try:
        with pytest.raises(
            DataError, match=r"a\.tar\.gz (is not unpacked: Its headers are endless|cannot be unpacked)"
        ):
            download_data((tmp_path / "a.tar.gz").as_uri(), tmp_path / "data")
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path / "data") == ["a.tar.gz"]


def test_the_members_of_a_tar_are_not_kept_in_memory(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        file.write(header("folder/", tarfile.DIRTYPE, 0) * 6_000 + bytes(1024))
    (tmp_path / "data" / "folder").mkdir(parents=True)
    tracemalloc.start()
    try:
        download_data((tmp_path / "a.tar.gz").as_uri(), tmp_path / "data")
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_sizes_of_members_are_heeded(tmp_path):
    negative = header("a", tarfile.REGTYPE, 0)
    number = (-512).to_bytes(12, "big", signed=True)
    negative = next(checked([negative[:124] + number + negative[136:]]))
    (tmp_path / "negative.tar").write_bytes(negative + bytes(1024))
    (tmp_path / "large.tar").write_bytes(header("a", tarfile.REGTYPE, 2**33) + bytes(1024))
    (tmp_path / "cut.tar").write_bytes(header("a", tarfile.REGTYPE, 5_000) + bytes(1024))
    for name, match in {"negative": "sizes below 0|cannot be", "large": "max_bytes", "cut": "cannot be"}.items():
        with pytest.raises(DataError, match=rf"{name}\.tar .*({match})"):
            download_data((tmp_path / f"{name}.tar").as_uri(), tmp_path / "data", max_bytes=1_000_000)
        assert not (tmp_path / "data" / "a").exists()


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_names_of_members_that_no_disk_takes_are_reported(tmp_path, suffix):
    archive = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(archive, "w") as opened:
            opened.writestr("good", "")
            opened.writestr("b" * 300, "")
    else:
        with tarfile.open(archive, "w") as opened:
            opened.addfile(tarfile.TarInfo("good"))
            opened.addfile(tarfile.TarInfo("b" * 300))
    with pytest.raises(DataError, match=r"cannot be unpacked: .*name too long"):
        download_data(archive.as_uri(), tmp_path / "data")
    assert os.listdir(tmp_path / "data") == [archive.name]


def test_a_zip_whose_members_share_their_bytes_is_stopped(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("a", bytes(1_000_000))
        opened.filelist += [clone(opened.filelist[0], f"b{index}") for index in range(50)]
    (tmp_path / "a.zip").write_bytes(stream.getvalue())
    with pytest.raises(DataError, match="more than max_bytes=10,000,000"):
        download_data((tmp_path / "a.zip").as_uri(), tmp_path / "data", max_bytes=10_000_000)
    assert os.listdir(tmp_path / "data") == ["a.zip"]


def clone(info, name):
    copy = zipfile.ZipInfo(name)
    for field in ("header_offset", "CRC", "compress_size", "file_size", "compress_type"):
        setattr(copy, field, getattr(info, field))
    return copy


def test_members_of_a_tar_become_plain_files(tmp_path):
    info = tarfile.TarInfo("tool")
    info.mode, info.uid, info.size = 0o6777, 12345, 4
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.addfile(info, io.BytesIO(b"body"))
    download_data((tmp_path / "a.tar").as_uri(), tmp_path / "data")
    status = (tmp_path / "data" / "tool").stat()
    assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH)
    assert status.st_uid == os.getuid()


def test_a_python_that_cannot_unpack_safely_says_so(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.addfile(tarfile.TarInfo("good"))
    with pytest.raises(DataError, match=r"3\.11\.4"):
        download_data((tmp_path / "a.tar").as_uri(), tmp_path / "data")
