"""Files and names of strangers: they are data, whatever they hold. What SECURITY.md says was tried is tried again here."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from helpers_browser import loaded
from helpers_results import begin, write_run
from helpers_tools import call, saved
from PIL import Image
from test_init import MASKS, folder, usual
from test_prepare import packed
from test_report import compared, enrich
from tiny import tiny

from kd.data.lazy_torchvision import functional
from kd.files import parsed
from kd.plain_yaml import load_yaml
from kd.results.render import Table, as_csv, as_json, latex, markdown
from kd.visible import visible

RUN = "document.documentElement.setAttribute('data-ran','1')"
SCRIPTS = (
    f"<script>{RUN}</script>",
    f'"><img src=x onerror="{RUN}">',
    f"' onmouseover='{RUN}",
    f"</style></title><script>{RUN}</script>",
    f"<svg onload={RUN}>",
    f"`</code><script>{RUN}</script>`",
    f"--><iframe srcdoc='<script>parent.{RUN}</script>'>",
    "{{7*7}}{% raw %}",
)
TEXTS = (
    "=cmd|'/C calc'!A0",
    "${jndi:ldap://x/a}",
    "\\input{/etc/passwd}",
    "a\nb|c",
    "\x1b]0;owned\x07\x1b[31m",
    "\u202egnp.exe",
    "![i](http://x/y.png)",
    "$(touch ran)`touch ran`;touch ran",
    "[1]x",
    "a\\|b",
)
ACTING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


class Evil:
    """Leaves a file where it is unpickled by what runs code."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.place,)


def refused(words: str, *command: object, **how: Any) -> str:
    """What a command says that ends in one line, not in a traceback."""
    done = call(*command, **how)  # type: ignore[arg-type]
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(words, done.stderr + done.stdout), done.stderr + done.stdout
    return done.stderr


# --- pickles


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("form", ["zip", "legacy", "raw"])
def test_pickled_weights_run_nothing_as_students_and_as_teachers(tmp_path: Path, suffix: str, form: str) -> None:
    file, ran = tmp_path / f"evil{suffix}", tmp_path / "ran"
    if form == "raw":
        file.write_bytes(pickle.dumps({"a": Evil(ran)}))
    else:
        torch.save({"state_dict": {"a": Evil(ran)}}, file, _use_new_zipfile_serialization=form == "zip")
    told = r"cannot be read as weights \((it holds pickled objects|SafetensorError: .*header)"
    refused(f"pretrained: .*{told}", "train", "shapes/tiny", "ce", f"student.pretrained={file}", "--output", tmp_path / "run")
    for values in (
        f"cirkd, path: {file}",
        f"torchvision, path: {file}",
        f"features, backbone: test_resnet, pretrained: {file}",
    ):
        method = "fitnet@alone" if "features" in values else "kd"
        words = ["train", "shapes/tiny", method, f"teacher={{name: {values}}}", "--output", tmp_path / "run"]
        refused(rf"teacher\.\w+: .*{told}", *words)
    assert not ran.exists()


def test_torchvisions_cache_is_read_without_running_it_and_by_its_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import get_model_weights

    place = tmp_path / "hub" / "checkpoints"
    place.mkdir(parents=True)
    file = place / get_model_weights("lraspp_mobilenet_v3_large").DEFAULT.url.rpartition("/")[2]
    torch.save({"a": Evil(tmp_path / "ran")}, file)
    teacher = "teacher={name: torchvision, model: lraspp_mobilenet_v3_large}"
    command = ["train", "shapes/tiny", "kd", teacher, "--output", tmp_path / "run"]
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    refused("by the digest in its name it is damaged, or another file", *command)
    monkeypatch.setattr("teachers.torchvision.file_mark", lambda path: file.name.rpartition("-")[2][:8])
    refused("it holds pickled objects", *command)
    monkeypatch.setattr("teachers.torchvision.reachable", lambda url: False)
    file.unlink()
    refused("the server does not answer within seconds", *command)
    assert not (tmp_path / "ran").exists()


def test_pickles_in_a_run_run_nothing(tmp_path: Path) -> None:
    run, ran = write_run(tmp_path / "run", tiny(), 50.0), tmp_path / "ran"
    torch.save({"step": 1, "a": Evil(ran)}, run / "checkpoint.pt")
    evil = np.array([Evil(ran)], dtype=object)
    np.savez(run / "counts.npz", ids=evil, **{name: np.zeros((1, 2)) for name in ("valid", "tp", "fp", "fn", "ignored")})
    refused("it holds code, which is never run", "verify", run)
    refused("Object arrays cannot be loaded when allow_pickle=False", "verify", run)
    assert call("table", run).returncode == 0
    model, photos = tmp_path / "model", tmp_path / "photos"
    saved(model)
    photos.mkdir()
    np.save(photos / "a.npy", evil, allow_pickle=True)
    (photos / "b.npy").write_bytes(pickle.dumps(Evil(ran)))
    refused("0 of 2 images predicted", "predict", model, photos, "--output", tmp_path / "out")
    assert not ran.exists()


# --- files that swell, crash, or are programs


def png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), *chunks, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


ROWS = b"".join(b"\0" + b"\1" * 24 for _ in range(8))
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
HOSTILE = {
    "bomb": png(2**31 - 1, 2**31 - 1, zlib.compress(ROWS)),
    "short": png(8, 8, zlib.compress(ROWS[:-1])),
    "filter": png(8, 8, zlib.compress(b"\x09" + ROWS[1:])),
    "stream": png(8, 8, zlib.compress(ROWS)[:-6] + b"\xff" * 6),
    "text": png(8, 8, zlib.compress(ROWS), (b"zTXt", b"k\0\0" + zlib.compress(b"x" * 2**23))),
    "profile": png(8, 8, zlib.compress(ROWS), (b"iCCP", b"k\0\0" + zlib.compress(b"x" * 2**23))),
    "program": POSTSCRIPT,
}


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a stand-in for Ghostscript leaves where anybody starts it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\nexit 1\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "ran"


def test_hostile_pictures_are_named_and_the_rest_is_predicted(tmp_path: Path, ghostscript: Path) -> None:
    functional()  # torchvision's decoders, of which that of PNG ended the process, are there
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, content in HOSTILE.items():
        (photos / f"{name}.png").write_bytes(content)
    (photos / "good.png").write_bytes(png(8, 8, zlib.compress(ROWS)))
    saved(tmp_path / "model")
    told = refused(
        f"1 of {len(HOSTILE) + 1} images predicted", "predict", tmp_path / "model", photos, "--output", tmp_path / "o"
    )
    assert all(f"{name}.png" in told for name in HOSTILE.keys() - {"text"})
    assert "2 images: cannot be decoded (Decompressed data too large" in told
    assert "2147483647 x 2147483647 pixels, more than" in told
    assert not ghostscript.exists()


def test_a_report_shows_pictures_of_its_runs_and_nothing_else(tmp_path: Path, ghostscript: Path) -> None:
    compared(tmp_path / "runs", 1)
    place = tmp_path / "runs" / "ce0" / "previews" / "final" / "01_town"
    Image.new("RGB", (8, 8), (250, 0, 0)).save(tmp_path / "private.jpg")
    (place / "image.jpg").unlink()
    (place / "image.jpg").symlink_to(tmp_path / "private.jpg")
    (place / "target.png").write_bytes(png(30_000, 30_000, zlib.compress(ROWS)))
    (place / "student.png").write_bytes(POSTSCRIPT)
    assert call("report", tmp_path / "runs").returncode == 0
    page = (tmp_path / "runs" / "report.html").read_text()
    for words in ("it is a link that leads out of its run", "30000 x 30000 pixels", "cannot identify image file"):
        assert words in page
    assert not ghostscript.exists()


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_headers_of_an_archive_that_swell_are_refused_unread(tmp_path: Path, kind: bytes) -> None:
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = kind, 2**32
    with gzip.open(tmp_path / "a.tar.gz", "wb") as file:
        file.write(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(2**16))
    words = ["prepare", "deepglobe", tmp_path / "a.tar.gz", tmp_path / "out", "--any-count"]
    refused(r"is damaged or incomplete \(.*a header claims 4,295 MB", *words)


def test_links_and_devices_in_an_archive_are_no_files(tmp_path: Path) -> None:
    (source,) = packed("deepglobe", tmp_path / "in")
    shutil.unpack_archive(source, tmp_path / "tree")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "tree", "")
        kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
        for number, kind in enumerate(kinds, 9000):
            for name in (f"{number}_sat.jpg", f"{number}_mask.png", "train"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.linkname = kind, "/etc/passwd"
                archive.addfile(entry)
    assert call("prepare", "deepglobe", tmp_path / "a.tar", tmp_path / "out", "--any-count").returncode == 0
    assert not list((tmp_path / "out").rglob("900*"))
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


def test_weights_with_headers_that_lie_are_told_in_a_line(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    huge = json.dumps({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}).encode()
    deep = b'{"a":' + b"[" * 10_000 + b"]" * 10_000 + b"}"
    for claimed, header in ((2**63, b"{}"), (10**9, b"{}"), (len(huge), huge), (len(deep), deep), (0, b"")):
        (tmp_path / "model" / "student.safetensors").write_bytes(struct.pack("<Q", claimed) + header)
        words = ["predict", tmp_path / "model", tmp_path / "a.png", "--output", tmp_path / "out"]
        refused(r"does not hold the weights of student\.yaml; .*(header|buffer)", *words)


@pytest.mark.parametrize("depth", [100, 980, 100_000])
@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json"])
def test_json_that_is_nested_deeply_costs_its_own_run_only(tmp_path: Path, name: str, depth: int) -> None:
    write_run(tmp_path / "good", tiny(), 50.0)
    evil = begin(tmp_path / "evil", tiny("kd"))
    nested = "[" * depth + "]" * depth
    (evil / name).write_text(f'{{"sha256": "{"0" * 64}", "step": 1, "x": {nested}}}\n')
    assert call("table", tmp_path).returncode == 0
    assert call("report", tmp_path).returncode == 0
    with pytest.raises(ValueError, match="nested deeper than 64 levels"):
        parsed(nested)
    assert parsed("[" * 60 + "]" * 60)


# --- names in what is written and shown


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run a name, whose classes, teacher, environment and pictures are called so too."""
    place = tmp_path_factory.mktemp("hostile") / "runs"
    for number, name in enumerate((*SCRIPTS, *TEXTS)):
        weights = {} if number == 0 else {"weights": {"kl": 1.0 + number}}
        run = write_run(place / f"{number}{name.replace('/', '_')}", tiny("kd" if number else "ce", **weights), 50.0 + number)
        enrich(run, classes=(*SCRIPTS, *TEXTS), teacher=number > 0, pictures=number < 2)
        result, recipe = json.loads((run / "result.json").read_text()), load_yaml((run / "recipe.yaml").read_text())
        result["asked"], result["environment"][name], result["environment"]["device"] = name, name, SCRIPTS[0]
        if number:
            result["teacher"]["source"] = recipe["teacher"]["path"] = SCRIPTS[1]
            recipe["teacher"]["name"] = "run"
        recipe["data"] |= {"name": "folder", "root": SCRIPTS[0]}
        (run / "result.json").write_text(json.dumps(result))
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        for picture in (run / "previews" / "final").glob("01_town"):
            picture.rename(picture.with_name(f"01_{SCRIPTS[1].replace('/', '_')}"))
    return place


def test_no_name_runs_in_a_report(hostile: Path, tmp_path: Path) -> None:
    """That a script which is put into the page runs, but for the page's policy, shows that the test would see it."""
    assert call("report", hostile, "--title", SCRIPTS[3], "--output", tmp_path / "report.html").returncode == 0
    page = (tmp_path / "report.html").read_text()
    assert not ACTING.search(page)
    assert f"&lt;script&gt;{RUN.replace(chr(39), '&#39;')}" in page
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
    assert policy in page
    bare = re.sub("<meta http-equiv=[^>]*>", "", page)
    spoilt = f"<script>{RUN}</script></body>"
    for text, ran in ((bare, False), (page.replace("</body>", spoilt), False), (bare.replace("</body>", spoilt), True)):
        (tmp_path / "page.html").write_text(text)
        assert ('data-ran="1"' in loaded(tmp_path / "page.html", tmp_path).partition("<head>")[0]) == ran


def test_no_name_acts_in_a_table(hostile: Path) -> None:
    for form in ("markdown", "latex", "csv", "json"):
        done = call("table", hostile, "--format", form)
        assert done.returncode == 0, done.stderr
        assert not ACTING.search(done.stdout), form
    for name in (*SCRIPTS, *TEXTS):
        *_, row = markdown([Table("", ("a", "b"), ((name, name),))]).splitlines()
        assert not re.search(r"<[a-zA-Z/!?]|\]\(", row)
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 3
        text = latex([Table("", ("a",), ((name,),))]).partition("\\midrule\n")[2]
        assert not re.search(
            r"(?<!\\)(?:\\\\)*\\input|(?<!\\)[%#&^_]", text.partition("\\\\")[0].replace("\\textbackslash{}", "")
        )
        assert text[0] not in "[*"
        assert json.loads(as_json({"x": name})) == {"x": name}
        ((cell,),) = list(csv.reader(io.StringIO(as_csv([{"x": name}]))))[1:]
        assert cell[0] not in "=+-@"


def test_what_is_printed_does_not_act(tmp_path: Path) -> None:
    assert visible("a\x1b[31m\u202eb\tc\n\x9b\udcff") == "a\\u001b[31m\\u202eb\tc\n\\u009b\\udcff"
    evil = tmp_path / "a\x1b]0;x\x07\udcff"
    for name in ("one", "two"):
        write_run(evil / name, tiny(), 50.0)
    assert not ACTING.search(refused("are both seed 0 of one row", "table", evil))
    done = call("verify", evil)
    assert done.returncode == 0
    saved(tmp_path / "model")
    (evil / "b.png").write_bytes(b"x")
    told = call("predict", tmp_path / "model", evil, "--output", tmp_path / "out\x1b[1m")
    assert told.returncode == 2
    assert not ACTING.search(told.stderr + told.stdout)
    assert "out\\u001b[1m: 0 of 1 images" in told.stdout


# --- names and shells


SHELL = ("$(touch ran)", "`touch ran`", "x; touch ran; y", "x\ntouch ran\n", "x'\"; touch ran; '")


@pytest.mark.parametrize("name", SHELL)
def test_scripts_of_a_sweep_run_what_they_say_and_nothing_else(tmp_path: Path, name: str) -> None:
    axes = {"method": ["ce"], "seed": [0], "way": {name: {"schedule.steps": 7}}}
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"recipe": "shapes/tiny", "axes": axes, "teachers": []}))
    change = f"run.wandb.group={json.dumps(name)}"
    words = ["sweep", f"{name}.yaml", change, "--output", f"out{name}"]
    script = call(*words, "--slurm", folder=tmp_path)
    assert script.returncode == 0, script.stderr
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kd").write_text('#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done > heard\n')
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\nbash -s\n")  # which runs the job at once
    for command in ("kd", "sbatch"):
        (tmp_path / "bin" / command).chmod(0o755)
    surroundings = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(["bash", "-c", script.stdout], cwd=tmp_path, env=surroundings, check=True, timeout=20)
    heard = (tmp_path / "heard").read_text().split("\0")
    assert heard[:2] == ["sweep", f"{name}.yaml"]
    assert {change, f"out{name}"} <= set(heard)
    assert re.fullmatch(r"[\w.=+@-]+", heard[heard.index("--only") + 1])
    grid = yaml.safe_load(call(*words, "--wandb-sweep", folder=tmp_path).stdout)
    assert change in grid["command"]
    assert not (tmp_path / "ran").exists()


def test_what_the_shell_completes_is_one_word(tmp_path: Path) -> None:
    for name in SHELL:
        (tmp_path / f"{name}.yaml").write_text("")
    line = f"kd train {tmp_path}/"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\v", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    asked |= {
        "_ARGCOMPLETE_SHELL": "bash",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
        "PYTHONPATH": str(Path.cwd()),
    }
    subprocess.run([sys.executable, "-m", "kd"], env={**os.environ, **asked}, timeout=60, check=False, capture_output=True)
    words = (tmp_path / "out").read_text().split("\v")
    assert len(words) == len(SHELL) - 1
    done = subprocess.run(["bash", "-c", "\n".join(f"printf '%s\\n' {word}" for word in words)], capture_output=True, text=True)
    assert len(done.stdout.splitlines()) == len(words)
    assert not (tmp_path / "ran").exists()
    assert not Path("ran").exists()


def test_names_of_folders_and_classes_are_texts_in_the_recipe_that_init_writes(tmp_path: Path) -> None:
    evil = "mine\nteacher: {name: 'evil:Class'}\n#"
    folder(tmp_path / evil, MASKS["numbers"][0], usual)
    names = ["a\x1b[31m", "road: {x: 1}", "!!python/object/apply:os.system [x]"]
    (tmp_path / evil / "classes.txt").write_text("\n".join(names))
    (tmp_path / evil / "images").rename(tmp_path / evil / "im\nx: 1 #")
    done = call("init", tmp_path / evil, "--images", "im\nx: 1 #", folder=tmp_path)
    assert not ACTING.search(done.stdout + done.stderr)
    (recipe,) = (tmp_path / "recipes").glob("*/r18.yaml")
    tree = load_yaml(recipe.read_text())
    assert tree["teacher"]["name"] == "run"
    assert tree["data"]["root"] == str(tmp_path / evil)
    assert tree["data"]["images"] == "im\nx: 1 #"
    assert list(tree["data"]["classes"].values()) == names


# --- links


def test_what_lies_in_a_run_leads_nowhere_else(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    compared(tmp_path / "runs", 1)
    (tmp_path / "runs" / "report.html").symlink_to(precious)
    refused(r"report\.html: is a link, and what it leads to would be overwritten", "report", tmp_path / "runs")
    for name in (".lock", "metrics.jsonl", "run.json", "wandb"):
        run = tmp_path / name / "run"
        run.mkdir(parents=True)
        (run / name).symlink_to(precious)
        words = ["train", "shapes/tiny", "ce", "--smoke", "--output", run]
        refused(r"is a link that leads out of the run's directory, which training writes to|is a link", *words)
    assert precious.read_text() == "mine"


# --- code


def test_tables_reports_and_verify_run_no_code_that_a_run_names(tmp_path: Path) -> None:
    """Building a network does, as the README says: its class is code."""
    (tmp_path / "evil_of_a_run.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    compared(tmp_path / "runs", 1)
    for file in (tmp_path / "runs").rglob("recipe.yaml"):
        recipe = load_yaml(file.read_text())
        for part in ("data", "student", "teacher", "method"):
            if recipe.get(part):
                recipe[part]["name"] = "evil_of_a_run:Class"
        file.write_text(yaml.safe_dump(recipe))
    for command in ("table", "report", "verify"):
        assert call(command, "runs", folder=tmp_path).returncode == 0
    assert not (tmp_path / "ran").exists()
    saved(tmp_path / "model")
    card = load_yaml((tmp_path / "model" / "student.yaml").read_text())
    card["network"]["name"] = "evil_of_a_run:Class"
    (tmp_path / "model" / "student.yaml").write_text(yaml.safe_dump({k: v for k, v in card.items() if k != "sha256"}))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    refused("cannot be imported", "predict", "model", "a.png", folder=tmp_path)
    assert (tmp_path / "ran").exists()
