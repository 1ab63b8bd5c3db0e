"""Whether a file of any name begins as a video container that `reader.py` opens."""

from __future__ import annotations

from pathlib import Path

_TRANSPORT_PACKETS = ((0, 188), (4, 192))  # first sync byte and bytes of a packet, without and with time codes
_HEAD = 389  # bytes: three packets
_MAGIC = (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"FLV\x01", b"0&\xb2u\x8ef\xcf\x11", b"GIF8")  # Matroska, MPEG, ASF
_STILLS_AND_SOUND = frozenset((b"heic", b"heix", b"mif1", b"avif", b"M4A ", b"M4B "))  # brands of MP4's own container
_NEVER = (
    *(".csv", ".json", ".jsonl", ".txt", ".md", ".xml", ".yaml", ".yml", ".srt", ".vtt", ".html", ".pdf", ".py"),
    *(".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".wav", ".mp3", ".m4a", ".mka", ".flac", ".aac"),
    *(".npy", ".npz", ".h5", ".hdf5", ".tar", ".gz", ".zip", ".tfrecord", ".tfrecords", ".pt", ".pth", ".safetensors"),
)  # not opened to look, as data sets have very many of them


def begins_as_video(path: Path) -> bool:
    """Whether the first bytes are those of a video container. False for files that cannot be read."""
    if path.suffix.lower() in _NEVER:
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    if head[4:8] == b"ftyp":
        return head[8:12] not in _STILLS_AND_SOUND
    transport = any(head[at::step][:3] == b"GGG" for at, step in _TRANSPORT_PACKETS)
    return head.startswith(_MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"AVI ") or transport
