import hashlib
import io
import os
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from torchloops.errors import ConfigurationError, DataError
from torchloops.vision import download_data

CONTENT = bytes(range(256)) * 4000


class Handler(BaseHTTPRequestHandler):
    """Serves ``files``; the first ``breaks`` answers stop in the middle; counts requests."""

    files: dict
    breaks: int
    requests: list

    def do_GET(self):
        self.requests.append(self.path)
        content = self.files.get(self.path)
        if content is None:
            self.send_error(404, "Not here")
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if type(self).breaks:
            type(self).breaks -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("torchloops.vision.download._PAUSE", 0)
    handler = type("Served", (Handler,), {"files": {}, "breaks": 0, "requests": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        handler.url = f"http://127.0.0.1:{server.server_port}"
        yield handler
        server.shutdown()
        thread.join()


def serve(server, name, content=CONTENT):
    server.files[f"/{name}"] = content
    return f"{server.url}/{name}"


def test_downloads_into_the_folder(server, tmp_path):
    url = serve(server, "a.bin")
    checksum = hashlib.sha256(CONTENT).hexdigest()
    path = download_data(url, tmp_path / "new" / "data", sha256=checksum.upper())
    assert path == tmp_path / "new" / "data" / "a.bin"
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["a.bin"]


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    url = serve(server, "a.bin")
    md5 = hashlib.md5(CONTENT).hexdigest()
    for _ in range(3):
        download_data(url, tmp_path, md5=md5)
    assert len(server.requests) == 1
    (tmp_path / "a.bin").write_bytes(b"damaged")
    assert download_data(url, tmp_path, md5=md5).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_wrong_checksum_leaves_nothing_and_keeps_the_old_file(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(DataError, match="another sha256: expected 00"):
        download_data(serve(server, "a.bin"), tmp_path, sha256="00" * 32)
    assert os.listdir(tmp_path) == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_a_broken_connection_is_tried_again(server, tmp_path):
    server.breaks = 2
    assert download_data(serve(server, "a.bin"), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 3


def test_a_connection_that_stays_broken_is_reported(server, tmp_path):
    server.breaks = 9
    with pytest.raises(DataError, match=r"could not be downloaded: the connection broke .*2 attempts"):
        download_data(serve(server, "a.bin"), tmp_path, retries=1)
    assert os.listdir(tmp_path) == []


def test_missing_pages_and_servers_are_reported(server, tmp_path):
    with pytest.raises(DataError, match="HTTP 404"):
        download_data(f"{server.url}/none.zip", tmp_path)
    assert len(server.requests) == 1
    with pytest.raises(DataError, match="could not be downloaded"):
        download_data("http://127.0.0.1:1/a.zip", tmp_path, retries=0)
    with pytest.raises(DataError, match="could not be downloaded"):
        download_data((tmp_path / "none.zip").as_uri(), tmp_path, retries=0)


def test_too_large_files_are_stopped(server, tmp_path):
    with pytest.raises(DataError, match="more than max_bytes=1,000"):
        download_data(serve(server, "a.bin"), tmp_path, max_bytes=1000)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("url", ["ftp://host/a.zip", "a.zip", "http://host/", "http://host/%2e%2e", "javascript:1"])
def test_urls_that_name_no_file_are_refused(tmp_path, url):
    with pytest.raises(ConfigurationError):
        download_data(url, tmp_path)


def test_escaped_names_stay_in_the_folder(server, tmp_path):
    url = serve(server, "x/..%2f..%2fescaped.bin")
    assert download_data(url, tmp_path / "data") == tmp_path / "data" / "escaped.bin"


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"" if str(getattr(name, "filename", name)).endswith("/") else b"content")
    return stream.getvalue()


def tarred(*members, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for member in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            content = b"content" if info.isfile() else b""
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.zip", zipped("set/", "set/ants/1.jpg")),
        ("a.tar", tarred("./set/ants/1.jpg")),
        ("a.tgz", tarred("set/ants/1.jpg", mode="w:gz")),
        ("a.tar.bz2", tarred("set/ants/1.jpg", mode="w:bz2")),
        ("a.tar.xz", tarred("set/ants/1.jpg", mode="w:xz")),
    ],
)
def test_archives_are_unpacked_once(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    target = tmp_path / "data"
    download_data((tmp_path / name).as_uri(), target)
    unpacked = target / "set" / "ants" / "1.jpg"
    assert unpacked.read_bytes() == b"content"
    assert sorted(os.listdir(target)) == sorted([name, "set"])
    changed = unpacked.stat().st_ino
    download_data((tmp_path / name).as_uri(), target)
    assert unpacked.stat().st_ino == changed
    unpacked.unlink()
    download_data((tmp_path / name).as_uri(), target)
    assert unpacked.exists()


def test_extract_false_leaves_the_archive_packed(tmp_path):
    (tmp_path / "a.zip").write_bytes(zipped("x"))
    download_data((tmp_path / "a.zip").as_uri(), tmp_path / "data", extract=False)
    assert os.listdir(tmp_path / "data") == ["a.zip"]


def link_in_zip(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


HOSTILE = {
    "dots.zip": zipped("good.txt", "../evil.txt"),
    "inner_dots.zip": zipped("good.txt", "a/../../evil.txt"),
    "absolute.zip": zipped("good.txt", "/tmp/torchloops_evil.txt"),
    "drive.zip": zipped("good.txt", "C:/evil.txt"),
    "backslash.zip": zipped("good.txt", "..\\evil.txt"),
    "link.zip": zipped("good.txt", link_in_zip("evil")),
    "dots.tar": tarred("good.txt", "../evil.txt"),
    "absolute.tar": tarred("good.txt", "/tmp/torchloops_evil.txt"),
    "symlink.tar": tarred("good.txt", special("out", tarfile.SYMTYPE, "/"), "out/evil.txt"),
    "relative_symlink.tar": tarred("good.txt", special("a/out", tarfile.SYMTYPE, "../../secret.txt")),
    "loop.tar": tarred("good.txt", special("a", tarfile.SYMTYPE, "b"), special("b", tarfile.SYMTYPE, "a")),
    "hardlink.tar": tarred("good.txt", special("evil", tarfile.LNKTYPE, "../secret.txt")),
    "absolute_hardlink.tar": tarred("good.txt", special("evil", tarfile.LNKTYPE, "/etc/passwd")),
    "good_hardlink.tar": tarred("good.txt", special("copy", tarfile.LNKTYPE, "good.txt")),
    "sparse.tar": tarred("good.txt", special("evil", tarfile.GNUTYPE_SPARSE)),
    "device.tar": tarred("good.txt", special("evil", tarfile.CHRTYPE)),
    "pipe.tar": tarred("good.txt", special("evil", tarfile.FIFOTYPE)),
    "cut.tar.gz": tarred("good.txt", mode="w:gz")[:-20],
    "text.zip": b"no archive",
    "text.tar": b"no archive",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_and_broken_archives_write_nothing(tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / name).write_bytes(HOSTILE[name])
    target = tmp_path / "data"
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        download_data((tmp_path / name).as_uri(), target)
    assert os.listdir(target) == [name]
    assert sorted(os.listdir(tmp_path)) == sorted([name, "data", "secret.txt"])


def test_nothing_is_unpacked_through_a_link_that_is_there(tmp_path):
    (tmp_path / "outside").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "set").symlink_to(tmp_path / "outside")
    (tmp_path / "a.zip").write_bytes(zipped("set/evil.txt"))
    with pytest.raises(DataError, match="is a link"):
        download_data((tmp_path / "a.zip").as_uri(), tmp_path / "data")
    assert os.listdir(tmp_path / "outside") == []


def test_bombs_are_stopped(tmp_path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1_000_000))
    bomb = stream.getvalue()
    lying = bomb.replace((1_000_000).to_bytes(4, "little"), (1_000).to_bytes(4, "little"))
    for name, content in {"bomb.zip": bomb, "lying.zip": lying}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError):
            download_data((tmp_path / name).as_uri(), tmp_path / "data", max_bytes=10_000)
        assert not (tmp_path / "data" / "zeros").exists()
