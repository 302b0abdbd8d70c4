"""Decoders that abort, hang or print: the process that asked for pixels goes on."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image

from chexscore import isolation, load_image
from chexscore.errors import TooLargeImageError, UnreadableImageError
from chexscore.isolation import LostCallError, call
from tests.phantoms import draw
from tests.test_images import save_dicom

FILM = draw(1, size=64)


def shout(pid: int) -> NDArray[np.uint8]:
    os.write(1, b"a decoder's words")
    os.kill(pid or os.getpid(), signal.SIGTERM)  # as systemd does it to all of a unit
    return np.arange(10**6, dtype=np.uint32).astype(np.uint8)


def refuse(path: str) -> None:
    raise TooLargeImageError(path, "much too large")


def test_one_process_answers_many_calls_and_another_takes_over_when_it_dies() -> None:
    first = call(os.getpid)
    assert first != os.getpid()
    assert call(os.getpid) == first
    with pytest.raises(LostCallError, match="crashed"):
        call(os.abort)
    assert call(os.getpid) not in (first, os.getpid())


def test_what_a_decoder_leaks_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "LIFETIME", 3)
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.extend(call(os.getpid) for _ in range(7)))
    thread.start()
    thread.join()
    assert len(set(pids)) == 3
    assert pids[0] == pids[2] != pids[3] == pids[5] != pids[6]
    assert not any(map(is_alive, pids))


def test_a_call_that_never_ends_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "LIMIT_S", 0.5)
    began = time.monotonic()
    with pytest.raises(LostCallError, match=r"longer than 0\.5 s"):
        call(time.sleep, 60)
    assert time.monotonic() - began < 20
    assert call(abs, -1) == 1


def test_answers_and_errors_come_back_whatever_a_decoder_prints_and_who_is_asked_to_stop() -> None:
    np.testing.assert_array_equal(call(shout, 0), np.arange(10**6).astype(np.uint8))
    with pytest.raises(TooLargeImageError, match="a\udcff: much too large") as caught:
        call(refuse, "a\udcff")
    assert caught.value.reason == "much too large"


def test_each_thread_has_its_own_which_ends_with_it() -> None:
    pids: list[int] = []
    thread = threading.Thread(target=lambda: pids.append(call(os.getpid)))
    thread.start()
    thread.join()
    assert pids != [call(os.getpid)]
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")  # dead, too, if nobody has fetched its exit code yet
    return not state.exists() or state.read_text().split()[2] != "Z"


def test_a_child_ends_with_its_process_even_if_that_is_killed() -> None:
    code = "import os\nfrom chexscore.isolation import call\nprint(call(os.getpid), flush=True)\ninput()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


def save_compressed(path: Path, code: bytes, syntax: str, **tags: object) -> Path:
    save_dicom(path, FILM)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.UID(syntax)
    dataset.PixelData = pydicom.encaps.encapsulate([code])
    dataset["PixelData"].is_undefined_length = True
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def compressed(kind: str, film: NDArray[np.uint8], **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(film).save(stream, kind, **options)
    return stream.getvalue()


STREAMS: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
    pydicom.uid.JPEGBaseline8Bit: lambda film: compressed("JPEG", film, quality=95),
    pydicom.uid.JPEG2000Lossless: lambda film: compressed("JPEG2000", film, irreversible=False),
}


@pytest.mark.parametrize("syntax", STREAMS)
def test_the_size_that_the_pixels_say_themselves_counts(tmp_path: Path, syntax: str) -> None:
    """A decoder allocates that, whatever the header says."""
    code = STREAMS[syntax]
    sound = save_compressed(tmp_path / "sound.dcm", code(FILM), syntax)
    assert np.abs(load_image(sound)[..., 0].astype(int) - FILM).max() < 12
    bomb = save_compressed(tmp_path / "bomb.dcm", code(np.zeros((200, 100), np.uint8)), syntax)
    with pytest.raises(UnreadableImageError, match="64 x 64 in its header, 100 x 200 in its pixels"):
        load_image(bomb)


def test_a_damaged_real_film_is_a_row_and_no_end(xrays: Path, tmp_path: Path) -> None:
    """One bit, in the number of bits a pixel has: the decoder of JPEG-LS aborts on it."""
    sound = xrays / "dicom" / "chest_cr_mono1_jpegls_near.dcm"
    assert load_image(sound).shape == (1955, 1841, 1)
    damaged = bytearray(sound.read_bytes())
    damaged[damaged.index(b"\xff\xf7") + 4] ^= 0x80
    (tmp_path / "damaged.dcm").write_bytes(damaged)
    with pytest.raises(UnreadableImageError, match="damaged"):
        load_image(tmp_path / "damaged.dcm")
