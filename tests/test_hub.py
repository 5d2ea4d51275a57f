"""What comes from the Hugging Face hub: one commit, safetensors alone, no code, and no waiting for a hub that is away."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from test_foreign_teachers import SEGFORMER
from test_teachers import OWN, build

from kd.config import ConfigError
from kd.networks import hub
from kd.networks.build import build_network, network_config
from kd.networks.timm_weights import fetched

COMMIT, OLDER = "b" * 40, "a" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is away."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def stored(cache: Path, repository: str, commit: str = COMMIT, main: bool = True) -> Path:
    """The folder of a repository's files at a commit, as the hub's own library keeps it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    folder = place / "snapshots" / commit
    folder.mkdir(parents=True)
    if main:
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / "main").write_text(commit)
    return folder


def resnet(folder: Path, seed: int) -> None:
    """Weights of timm's smallest ResNet as the hub has them."""
    import timm

    torch.manual_seed(seed)
    save_file(timm.create_model("test_resnet").state_dict(), folder / "model.safetensors")


def network(**knobs: Any) -> Any:
    values = {"name": "deeplabv3", "backbone": "test_resnet.r160_in1k", "width": 8, "rates": [1, 2], "output_stride": 32}
    return build_network(network_config({**values, **knobs}), 3)


def test_a_backbone_begins_with_the_commit_that_its_revision_names_and_says_so(cache: Path) -> None:
    name = "timm/test_resnet.r160_in1k"
    resnet(stored(cache, name), 0)
    resnet(stored(cache, name, OLDER, main=False), 1)
    newest, pinned = network(), network(revision=OLDER)
    assert newest.fetched == f"{name}@{COMMIT}"
    assert pinned.fetched == f"{name}@{OLDER}"
    first, second = (next(one.backbone.parameters()) for one in (newest, pinned))
    assert not torch.equal(first, second)
    with pytest.raises(ConfigError, match=r"^pretrained: .*HF_HUB_OFFLINE is set, and the cache does not hold .* at cccc"):
        network(revision="c" * 40)
    with pytest.raises(ConfigError, match=r"^revision: is of timm's weights, but pretrained is x.pth; drop one"):
        network(pretrained="x.pth", revision=OLDER)


def test_a_run_notes_the_commit_that_its_student_began_with(cache: Path, tmp_path: Path) -> None:
    from tiny import execute, tiny

    resnet(stored(cache, "timm/test_resnet.r160_in1k"), 0)
    result = execute(tiny(student={"pretrained": True}), tmp_path / "run")
    assert result["pretrained"] == f"timm/test_resnet.r160_in1k@{COMMIT}"
    assert json.loads((tmp_path / "run" / "run.json").read_text())["pretrained"] == result["pretrained"]


def test_pickled_weights_are_not_fetched(cache: Path, tmp_path: Path) -> None:
    folder = stored(cache, "timm/test_resnet.r160_in1k")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="holds no safetensors, and pickled weights are never fetched; name a revision"):
        network()
    with pytest.raises(ConfigError, match=r"weights of gcvit_tiny only as a pickled file, https://.*pretrained=FILE"):
        fetched("gcvit_tiny", None)


def test_the_hub_is_asked_for_one_revision_and_for_files_that_run_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}

    def download(repository: str, **how: Any) -> str:
        asked.update(how)
        (tmp_path / COMMIT).mkdir()
        save_file({"a": torch.zeros(1)}, tmp_path / COMMIT / "model.safetensors")
        return str(tmp_path / COMMIT)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("kd.networks.hub.reachable", lambda url: True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert hub.snapshot("owner/name", "v1").source == f"owner/name@{COMMIT}"
    assert (asked["revision"], asked["local_files_only"]) == ("v1", False)
    assert asked["etag_timeout"] <= 10
    assert set(asked["allow_patterns"]) == {"*.json", "*.txt", "*.safetensors"}


@pytest.mark.parametrize("name", ["hf", "smp", "features"])
def test_a_hub_that_does_not_answer_is_told_in_a_line_within_seconds(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    if name != "features":
        pytest.importorskip({"hf": "transformers", "smp": "segmentation_models_pytorch"}[name])
    values = {"name": name, "path": "nobody/nothing"} if name != "features" else {"name": name, "backbone": "resnet18"}
    begun = time.monotonic()
    with pytest.raises(ConfigError) as told:
        build(values, OWN)
    assert time.monotonic() - begun < 10
    words = "http://127.0.0.1:9 does not answer within seconds, and the cache does not hold"
    assert words in str(told.value)
    assert "set HF_HUB_OFFLINE=1" in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["hf-hub:owner/name", "local-dir:/tmp", "../x", "owner/name"])
def test_a_backbone_is_a_name_of_timms_not_a_place(name: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone: .* is unknown to timm"):
        network(backbone=name)


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained"])
def test_options_of_timm_bring_no_weights(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"holds {key}, which is not timm's to be told here"):
        network(pretrained=False, options={key: "x"})
    with pytest.raises(ValueError, match=rf"holds {key}, which is not timm's to be told here"):
        build({"name": "features", "backbone": "test_resnet", "pretrained": False, "options": {key: "x"}}, OWN)


@pytest.fixture(scope="module")
def segformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip("transformers")
    names = dict(enumerate(OWN))
    config = transformers.SegformerConfig(**SEGFORMER, id2label=names, label2id={name: key for key, name in names.items()})
    folder = tmp_path_factory.mktemp("segformer")
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)
    return folder


def test_a_teacher_of_the_hub_is_called_by_its_commit(cache: Path, segformer: Path) -> None:
    shutil.copytree(segformer, stored(cache, "owner/name"), dirs_exist_ok=True)
    shutil.copytree(segformer, stored(cache, "owner/name", OLDER, main=False), dirs_exist_ok=True)
    assert build({"name": "hf", "path": "owner/name"}, OWN).source.startswith(f"owner/name@{COMMIT} ")
    assert build({"name": "hf", "path": "owner/name", "revision": OLDER}, OWN).source.startswith(f"owner/name@{OLDER} ")


def test_code_beside_a_teachers_weights_is_not_run_and_nobody_is_asked_to(
    segformer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    folder = tmp_path / "code"
    shutil.copytree(segformer, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto = {"AutoConfig": "evil.Config", "AutoModelForSemanticSegmentation": "evil.Model", "AutoImageProcessor": "evil.Pixels"}
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "model_type": "evil", "auto_map": auto}))
    with pytest.raises(ConfigError, match=r"gives no network .*contains custom code"):
        build({"name": "hf", "path": str(folder)}, OWN)
    (folder / "config.json").write_text(json.dumps({**settings, "auto_map": auto}))
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "Evil", "auto_map": auto}))
    build({"name": "hf", "path": str(folder)}, OWN)
    assert not (tmp_path / "ran").exists()
    assert "y/N" not in capsys.readouterr().out
