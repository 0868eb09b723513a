"""What a run folder's config may do when the run is resumed, and what it is refused: a test for each attack."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vaex.cli import main
from vaex.commands.own_parts import check_expansion, own_parts_only, shipped_parts
from vaex.commands.resuming import read_run_config, resume_arguments, says_again
from vaex.config import conf_dir
from vaex.errors import VaexError

OWN: dict[str, Any] = {
    "data": {"_target_": "vaex.data.Sprites", "size": 32, "shape": ["${vaex.channels:${..color}}"], "color": "white"},
    "callbacks": {"last": {"_target_": "vaex.callbacks.LastCheckpoint", "path": "${paths.run}/checkpoints/last.ckpt"}},
    "logger": {"csv": {"_target_": "vaex.callbacks.history.RunCSVLogger", "folder": "${paths.run}"}},
    "network": {"name": "conv"},
    "trainer": {"max_epochs": 2},
    "paths": {"data": "${oc.env:VAEX_DATA,./data}", "output": "./outputs", "run": "${hydra:runtime.output_dir}"},
    "name": "x",
}


def put(folder: Path, content: Any) -> Path:
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    (folder / ".hydra").mkdir(parents=True, exist_ok=True)
    (folder / ".hydra" / "config.yaml").write_text(text)
    return folder


def changed(path: str, value: Any) -> dict[str, Any]:
    content = OmegaConf.create(OWN)
    OmegaConf.update(content, path, value, force_add=True)
    plain: dict[str, Any] = OmegaConf.to_container(content, resolve=False)  # type: ignore[assignment]
    return plain


def test_its_own_config_is_taken_as_it_is(tmp_path: Path) -> None:
    assert own_parts_only(OWN, tmp_path) == OWN
    assert {"vaex.data.Sprites", "vaex.data.MVTec"} <= shipped_parts("data").keys()
    assert "vaex.callbacks.Attention" not in shipped_parts("data")


def test_the_progress_bar_of_earlier_runs_is_taken(tmp_path: Path) -> None:
    bar = {"_target_": "lightning.pytorch.callbacks.RichProgressBar", "refresh_rate": 10}
    content = {"callbacks": {"progress": bar}}
    assert own_parts_only(content, tmp_path)["callbacks"] == content["callbacks"]


EVIL = {
    "os.system": {"command": "touch {witness}"},
    "subprocess.check_call": {"args": ["touch", "{witness}"]},
    "builtins.exec": {"_args_": ["open('{witness}', 'w')"]},
    "torch.hub.load": {"repo_or_dir": "{folder}", "model": "evil", "source": "local"},
    "torch.load": {"f": "{folder}/evil.pt", "weights_only": False},
    "torch.utils.cpp_extension.load_inline": {"name": "evil", "cpp_sources": "int main() {{}}"},
    "hydra.utils.instantiate": {"config": {"_target_": "os.system", "command": "touch {witness}"}},
    "pathlib.Path.touch": {"_args_": ["{witness}"]},
    "numpy.load": {"file": "{folder}/evil.pt", "allow_pickle": True},
    "vaex.cli.main": {"arguments": ["train"]},
    "vaex.runs.write_atomic": {"path": "{witness}", "content": ""},
    "lightning.pytorch.Trainer": {},
}


class Code:
    """Runs a shell command wherever it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.witness}",)


def filled(value: Any, **names: str) -> Any:
    if isinstance(value, dict):
        return {key: filled(item, **names) for key, item in value.items()}
    if isinstance(value, list):
        return [filled(item, **names) for item in value]
    return value.format(**names) if isinstance(value, str) else value


@pytest.mark.parametrize(
    "place", ["callbacks.evil", "logger.csv", "data", "callbacks.last.inner", "trainer.x", "score"]
)
@pytest.mark.parametrize("target", EVIL)
def test_nothing_but_vaex_s_own_parts_is_built(
    target: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    witness = tmp_path / "witness"
    folder = put(tmp_path / "run", changed(place, {}))
    (folder / "hubconf.py").write_text(f"def evil():\n    open({str(witness)!r}, 'w')\n")
    torch.save({"x": Code(witness)}, folder / "evil.pt")
    options = filled(EVIL[target], witness=str(witness), folder=str(folder))
    put(folder, changed(place, {"_target_": target, **options}))
    assert main(["train", f"resume={folder}"]) == 1
    error = capsys.readouterr().err
    assert target in error or "nothing is built" in error
    assert error.count("\n") == 1
    assert not witness.exists()
    assert not (folder / "run.json").exists()


def test_the_attack_would_work_where_the_user_asks_for_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control: the same folder, with trust=true typed beside it, builds what it names."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        whole: Any = OmegaConf.to_container(compose("train", ["callbacks=[]", "logger=[]"]), resolve=False)
    whole["data"] = {"_target_": "vaex.runs.write_json", "path": {"_target_": "pathlib.Path", "_args_": []}}
    whole["data"]["path"]["_args_"] = [str(tmp_path / "witness")]
    whole["data"] |= {"content": {"a": 1}}
    whole["network"]["shape"] = [1, 32, 32]
    folder = put(tmp_path / "run", whole)
    for trust, built in (("trust=false", False), ("trust=true", True)):
        assert main(["train", f"resume={folder}", trust]) == 1
        assert (tmp_path / "witness").exists() is built


@pytest.mark.parametrize("typed", ["trust=false", "trust=", "+trust=no"])
def test_a_folder_cannot_trust_itself(typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "run", {**changed("callbacks.evil", {"_target_": "os.system"}), "trust": True})
    assert main(["train", f"resume={folder}", typed]) == 1
    assert "Unknown class at callbacks.evil._target_" in capsys.readouterr().err


REFUSED: list[tuple[str, Any, str]] = [
    ("logger.csv.name", "${oc.env:AWS_SECRET_ACCESS_KEY}", "does not evaluate"),
    ("name", "${oc.env:HOME}", "does not evaluate"),
    ("name", "${oc.env:${paths.data}}", "does not evaluate"),
    ("name", "${oc.${x}:HOME}", "does not evaluate"),
    ("name", "${oc.decode:'1'}", "does not evaluate"),
    ("name", "${oc.env:VAEX_DATA,./data}${oc.env:HOME}", "does not evaluate"),
    ("hydra.launcher._target_", "os.system", "the key 'hydra'"),
    ("hydra.job.env_set.LD_PRELOAD", "evil.so", "the key 'hydra'"),
    ("hydra.searchpath", ["file:///tmp"], "the key 'hydra'"),
    ("defaults", [{"override hydra/launcher": "joblib"}], "the key 'defaults'"),
    ("trainer.defaults", ["x"], "'defaults' at trainer"),
    ("callbacks.last._partial_", True, "'_partial_' at callbacks.last"),
    ("callbacks.last._args_", ["x"], "'_args_' at callbacks.last"),
    ("callbacks.last.path", "/home/victim/.bashrc", "outside the run folder"),
    ("callbacks.last.path", "~/.bashrc", "outside the run folder"),
    ("callbacks.last.path", ".bashrc", "outside the run folder"),
    ("callbacks.last.path", "${paths.run}/../../.bashrc", "outside the run folder"),
    ("callbacks.last.path", "${paths.output}/x", "outside the run folder"),
    ("callbacks.last.path", "${..evil}", "outside the run folder"),
    ("callbacks.last.path", ["/home/victim"], "outside the run folder"),
    ("callbacks.last.path", {"folder": "/home/victim"}, "outside the run folder"),
    ("callbacks.last.filename", "../../x", "outside the run folder"),
    ("callbacks.last.path", "C:\\Windows\\x", "outside the run folder"),
    ("callbacks.last.path", "s3://bucket/x", "outside the run folder"),
    ("logger.csv.folder", "/home/victim", "outside the run folder"),
    ("logger.csv.settings", {"base_url": "http://evil"}, "logger.csv.settings, which conf/logger does not have"),
    ("logger.csv.entity", "mallory", r"sends the run to the account logger\.csv\.entity=mallory: type that again"),
    ("logger.csv.entity", "${name}", "sends the run to the account"),
    ("trainer.profiler", "pytorch", r"sets trainer\.profiler=pytorch, which no choice of trainer has"),
    ("trainer.strategy", "deepspeed_stage_3_offload", r"sets trainer\.strategy=deepspeed_stage_3_offload"),
    ("trainer.plugins", ["x"], "which no choice of trainer has"),
    ("trainer.detect_anomaly", {"hours": "x"}, "which no choice of trainer has"),
    ("trainer.default_root_dir", "/home/victim", "which no choice of trainer has"),
    ("callbacks.last", "x", "must be a mapping"),
    ("data", "x", "cut short or damaged"),
    ("network", None, "cut short or damaged"),
]


@pytest.mark.parametrize(("place", "value", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_would_do_more_than_go_on_is_refused(place: str, value: Any, message: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "run", changed(place, value))
    with pytest.raises(VaexError, match=message), resume_arguments(folder, [f"resume={folder}"]):
        pass


def test_what_is_typed_again_is_the_user_s_own(tmp_path: Path) -> None:
    content = changed("trainer.strategy", "fsdp")
    content["logger"]["wandb"] = {"_target_": "vaex.callbacks.wandb_run.RunWandbLogger", "entity": "us"}
    content["callbacks"]["last"]["path"] = "/elsewhere/last.ckpt"
    folder = put(tmp_path / "run", content)
    typed = ["trainer.strategy=fsdp", "logger.wandb.entity=us", "callbacks.last.path=/elsewhere/last.ckpt"]
    for missing in typed:
        some = [argument for argument in typed if argument != missing]
        with pytest.raises(VaexError, match=missing.partition("=")[0]), resume_arguments(folder, some):
            pass
    with resume_arguments(folder, typed) as arguments:
        assert {*typed} <= {*arguments}
    with resume_arguments(folder, ["trust=true"]):
        pass


AGAIN = [
    *("data.size=32", "data.shape=[1]", "name=x", "name='x'", "data.root='/a b'", "data.root=/a b", "optim.lr=1e-3"),
    *("seed=3", "data.seed=3", "++data.seed=3", "network.grid={x: 4, y: 5}", "compile=false", "init=null"),
]
OTHER = [
    *("data.size=64", "data.shape=[3]", "name=y", "data.root=/a", "optim.lr=1e-4", "data.seed=4", "seed=3,4"),
    *("seed=[3]", "seed=true", "~seed", "~seed=3", "+seed=3", "seed=[3", "network.grid={x: 4}", "compile=0"),
    *("compile=true", "init=x", "nosuch=3", "nosuch=null", "data=sprites", "network=conv", "network.name=null"),
    *("data.lost=null", "data.size="),
]


def test_a_value_that_is_said_again_changes_nothing(tmp_path: Path) -> None:
    content = changed("data.root", "/a b")
    more = {"seed": 3, "optim": {"lr": 0.001}, "compile": False, "init": None, "network": {"grid": {"x": 4, "y": 5}}}
    content |= {**more, "data": {**content["data"], "seed": "${seed}", "lost": "${nowhere}"}}
    assert [typed for typed in [*AGAIN, *OTHER] if says_again(content, typed)] == AGAIN
    folder = put(tmp_path / "run", content)
    with resume_arguments(folder, ["data.seed=3", "test=false", "name=x"]) as arguments:
        assert "test=false" in arguments
        assert not [argument for argument in arguments if argument.startswith(("data.", "name="))]
    told = pytest.raises(VaexError, match=r"^'data\.seed=4' cannot change in a resumed run")
    with told, resume_arguments(folder, ["name=x", "data.seed=4"]):
        pass


@pytest.mark.parametrize("key", ["accelerator", "precision"])
def test_words_of_vaex_s_own_trainers_pass(key: str, tmp_path: Path) -> None:
    words = {"accelerator": ["cpu", "gpu", "auto", "mps"], "precision": ["32-true", "bf16-mixed", "64-true"]}
    for word in words[key]:
        content = changed(f"trainer.{key}", word)
        content["trainer"]["strategy"] = "ddp"
        assert own_parts_only(content, tmp_path)["trainer"][key] == word


def test_a_run_s_init_is_read_as_tensors_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that was stopped before its first checkpoint starts again from the file that its config names."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        small = ["data.size=32", "network.width=4", "network.depth=3", "callbacks=[]", "logger=[]"]
        whole: Any = OmegaConf.to_container(compose("train", small), resolve=False)
    torch.save({"state_dict": Code(tmp_path / "witness"), "hyper_parameters": {}}, tmp_path / "evil.ckpt")
    whole["init"] = str(tmp_path / "evil.ckpt")
    folder = put(tmp_path / "run", whole)
    assert main(["train", f"resume={folder}"]) == 1
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "evil.ckpt" in line]
    assert told.startswith("vaex train: ")
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize("name", ["hf-hub:mallory/net", "hf_hub:mallory/net", "local-dir:/tmp/net", "../net"])
def test_a_run_s_network_names_no_address(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        options = ["data.size=32", "network=feature_vae", "callbacks=[]", "logger=[]"]
        whole: Any = OmegaConf.to_container(compose("train", options), resolve=False)
    whole["network"]["backbone"] = f"timm:{name}"
    assert main(["train", f"resume={put(tmp_path / 'run', whole)}"]) == 1
    assert "must be the plain name of a model of timm" in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = put(tmp_path / "run", OWN)
    (tmp_path / "elsewhere").mkdir()
    (folder / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VaexError, match="is a link that leads out"), resume_arguments(folder, []):
        pass


def test_where_results_go_is_the_folder_that_was_named(tmp_path: Path) -> None:
    content = changed("paths.run", "/home/victim")
    content["data"]["urls"], content["data"]["sha256"] = ["http://evil/x.tar"], "0" * 64
    folder = put(tmp_path / "run", content)
    with resume_arguments(folder, [f"resume={folder}"]) as arguments:
        place = next(argument.partition("=")[2] for argument in arguments if argument.startswith("--config-path="))
        kept = OmegaConf.to_container(OmegaConf.load(Path(place) / "config.yaml"), resolve=False)
    assert isinstance(kept, dict)
    assert kept["paths"]["run"] == "${hydra:runtime.output_dir}"
    assert kept["data"]["urls"] is kept["data"]["sha256"] is None
    assert f"hydra.run.dir='{folder}'" in arguments
    assert not Path(place).exists()


LAUGHS = "a0: &a0 [lol]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "repeats parts by reference"),
        ("a: &x\n  b: *x\n", "repeats parts by reference"),
        ("a: 1\n" * 300_000, "more than 1048576 bytes"),
        ("", "cut short or damaged"),
        ("data: {_target_: vaex", "cut short or damaged"),
        ("- 1\n- 2\n", "cut short or damaged"),
        ("\x00\x01", "cut short or damaged"),
        ("a: !!python/object/apply:os.system ['touch witness']", "cut short or damaged"),
        ("a: !!python/name:os.system", "cut short or damaged"),
        ("a: " + "[" * 60 + "]" * 60, "nested more than 32 deep"),
        ("a: " + "[" * 9000 + "]" * 9000, "cut short or damaged|nested more"),
        ("[1, 2]: x", "cut short or damaged"),
    ],
    ids=lambda value: value[:20],
)
def test_a_config_that_is_none_ends_in_one_sentence(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VaexError, match=message) as caught:
        read_run_config(put(tmp_path / "run", text))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "witness").exists()


@pytest.mark.parametrize(
    "content",
    [
        {f"a{i}": f"${{a{i - 1}}}" * 9 for i in range(1, 12)} | {"a0": "lol"},
        {f"a{i}": f"${{a{i - 1}}}" * 9 for i in range(1, 12)} | {"a0": ""},
        {f"a{i}": {"x": f"${{a{i - 1}}}", "y": f"${{a{i - 1}}}"} for i in range(1, 40)} | {"a0": 1},
        {"a": "${b}", "b": "${a}"},
        {"a": {"b": "${.b}"}},
        {"a": {"b": "${..a}"}},
        {"a": ["${a[0]}"]},
    ],
    ids=["text", "empty text", "mappings", "circle", "itself", "parent", "list"],
)
def test_interpolations_that_multiply_are_refused(content: dict[str, Any]) -> None:
    with pytest.raises(VaexError, match="would grow without end"):
        check_expansion(content, "The config")


def test_interpolations_of_vaex_s_own_configs_pass(tmp_path: Path) -> None:
    for options in (
        [],
        ["experiment=mvtec_features", "callbacks=[attention,checkpoint,latents,traversal,disentanglement]"],
    ):
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            whole: Any = OmegaConf.to_container(compose("train", options), resolve=False)
        assert own_parts_only(whole, tmp_path)["network"] == whole["network"]
