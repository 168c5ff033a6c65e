"""Any folder of audio files, without labels."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from clmr.datasets.base import AudioDataset, Clip
from clmr.errors import DatasetError

EXTENSIONS = (
    *(".wav", ".flac", ".aif", ".aiff", ".aifc", ".mp3", ".ogg", ".oga", ".opus"),
    *(".m4a", ".mp4", ".aac", ".wma", ".webm", ".mka"),
)
VALID_SHARE = 0.1


class AudioFolder(AudioDataset):
    """Every audio file below `dataset_dir`, nested folders and links to folders included.

    A clip is named by its path below `dataset_dir`. A hash of that name puts a tenth of the clips
    into `valid` and the others into `train`, so that a file stays where it is when others come.
    Names that begin with a dot are passed over, as by any file manager.
    """

    def clips(self) -> list[Clip]:
        if not self.dataset_dir.is_dir():
            raise DatasetError(
                f"there is no folder {self.dataset_dir}: give the folder of your audio files "
                "by --dataset_dir"
            )
        files = [path for path in _files(self.dataset_dir) if path.suffix.lower() in EXTENSIONS]
        if not files:
            raise DatasetError(
                f"no audio files in {self.dataset_dir} or below: looked for "
                f"{' '.join(EXTENSIONS)}; give another folder by --dataset_dir"
            )
        clips = [self._clip(path) for path in files]
        return sorted(clips, key=lambda clip: clip.id)

    def _clip(self, path: Path) -> Clip:
        # Bytes that are not UTF-8 in a name are escaped, so that the index can hold it.
        name = path.relative_to(self.dataset_dir).as_posix()
        name = name.encode("utf-8", "backslashreplace").decode()
        return Clip(id=name, path=path, split=_split(name))


def _files(root: Path) -> Iterator[Path]:
    seen = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link back to a folder above would never end
            subfolders.clear()
            continue
        seen.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (Path(folder, name) for name in names if not name.startswith("."))


def _split(name: str) -> str:
    digest = hashlib.sha256(name.encode()).digest()
    return "valid" if int.from_bytes(digest[:8], "big") < VALID_SHARE * 2**64 else "train"
