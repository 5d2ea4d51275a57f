"""What archives and folders hold, alike: zip, tar (compressed or not) and extracted folders as lists of members.

Nothing is ever extracted under the name that an archive gives it: whoever reads a member chooses where its bytes go.
"""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd.config import InputError

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz")
SWELL, SPARE = 100, 10**8
"""So many times its own size an archive may unpack to, beyond so many bytes."""
LONGEST = 2**20
"""Bytes of what a tar says about one of its entries."""
ABOUT = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, NotImplementedError, RuntimeError)


class BrokenArchiveError(InputError):
    """An archive is incomplete or no archive."""


@dataclass(frozen=True)
class Member:
    """A file in a source: ``name`` with ``/`` between folders, ``size`` in bytes, ``source`` the archive or folder."""

    name: str
    size: int
    source: Path
    opened: Callable[[], bytes]

    def read(self) -> bytes:
        """The whole content.

        Raises:
            BrokenArchiveError: it is damaged.
        """
        try:
            content = self.opened()
        except DAMAGE as error:
            raise _broken(self.source, f"{self.name}: {error}") from None
        if len(content) != self.size:
            raise _broken(self.source, f"{self.name} has {len(content)} bytes instead of {self.size}")
        return content

    def __str__(self) -> str:
        return f"{self.source}: {self.name}"


def members(sources: Iterable[Path], without: Path, stack: ExitStack) -> list[Member]:
    """All files of archives and folders, in the order in which they are stored; archives at the top of a folder are opened too.

    ``without`` is a folder to leave out where it lies inside a source; archives stay open until ``stack`` closes.

    Raises:
        InputError: a source does not exist, or is a file of another kind.
        BrokenArchiveError: an archive is damaged.
    """
    found: list[Member] = []
    for source in sources:
        if not source.exists():
            raise InputError(
                f"{source}: does not exist; give the official archives, a folder that holds them, or an extracted one"
            )
        if source.is_dir():
            for archive in sorted(path for path in source.iterdir() if _is_archive(path)):
                found += _of_archive(archive, stack)
            found += _of_folder(source, without)
        elif _is_archive(source):
            found += _of_archive(source, stack)
        else:
            raise InputError(f"{source}: is neither a folder nor an archive ({', '.join(ARCHIVES)})")
    return [member for member in found if not _hidden(member.name)]


def grouped(members: Iterable[Member], pattern: re.Pattern[str]) -> dict[tuple[str, ...], Member]:
    """The members whose whole name fits a pattern, in their order, by the pattern's groups.

    Raises:
        InputError: two of different size fit with the same groups; twice the same file, packed and extracted, is forgiven.
    """
    found: dict[tuple[str, ...], Member] = {}
    for member in members:
        match = pattern.fullmatch(member.name)
        other = found.setdefault(match.groups(), member) if match else member
        if other.size != member.size:
            raise InputError(f"{other} and {member} should be the same file, but differ; give one of the two")
    return found


def _is_archive(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(ARCHIVES)


def _hidden(name: str) -> bool:
    """What archives of macOS leave behind."""
    return any(part == "__MACOSX" or part.startswith("._") for part in name.split("/"))


def _of_folder(folder: Path, without: Path) -> Iterator[Member]:
    inner = without.resolve()
    apart = inner != folder.resolve()
    for path in sorted(folder.rglob("*")):
        inside = apart and inner in path.resolve().parents
        if path.is_file() and not inside and not _is_archive(path):
            yield Member(path.relative_to(folder).as_posix(), path.stat().st_size, folder, path.read_bytes)


def _of_archive(archive: Path, stack: ExitStack) -> list[Member]:
    try:
        found = _of_zip(archive, stack) if archive.suffix.lower() == ".zip" else _of_tar(archive, stack)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise _broken(archive, str(error)) from None
    packed, whole = archive.stat().st_size, sum(member.size for member in found)
    if whole > SWELL * packed + SPARE:
        raise BrokenArchiveError(
            f"{archive}: {packed / 1e6:,.1f} MB would unpack to {whole / 1e6:,.0f} MB, more than {SWELL} times as much, which "
            "images never do; it is no data set, or was tampered with: fetch it from its official place"
        )
    return found


def _of_zip(path: Path, stack: ExitStack) -> list[Member]:
    archive = stack.enter_context(zipfile.ZipFile(path))

    def opener(entry: zipfile.ZipInfo) -> Callable[[], bytes]:
        return lambda: archive.read(entry)

    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    return [Member(entry.filename, entry.file_size, path, opener(entry)) for entry in entries if not entry.is_dir()]


class _Entry(tarfile.TarInfo):
    """What says something about an entry, its long name or times, is read into memory whole: it is small, or no such thing."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Entry:
        """As the base, without what claims to be large."""
        found: _Entry = super().frombuf(buf, encoding, errors)
        if found.type in ABOUT and found.size > LONGEST:
            raise tarfile.ReadError(f"a header claims {found.size / 1e6:,.0f} MB")
        return found


def _of_tar(path: Path, stack: ExitStack) -> list[Member]:
    archive = stack.enter_context(tarfile.open(path, tarinfo=_Entry))  # noqa: SIM115

    def opener(entry: tarfile.TarInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            content: Any = archive.extractfile(entry)
            return content.read()

        return read

    entries: list[tarfile.TarInfo] = archive.getmembers()
    stream: Any = archive.fileobj
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile forgives a cut within a header
        raise tarfile.ReadError("its end is missing")
    return [Member(entry.name, entry.size, path, opener(entry)) for entry in entries if entry.isfile()]


def _broken(archive: Path, problem: str) -> BrokenArchiveError:
    told = " ".join(problem.split())
    return BrokenArchiveError(f"{archive}: is damaged or incomplete ({told}); fetch it again. What is finished stays")
