"""Pickles that would run code, wherever a model or a state may come from: none of them is ever read."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

from rlhf.checkpoints import Checkpoints
from rlhf.errors import PreflowError
from rlhf.manifests import fingerprint
from rlhf.models import adapt_policy, load_policy, save_policy
from tests.faults.child import ended
from tests.faults.test_checkpoints import train
from tests.tasks import tiny


class Evil:
    """Leaves a folder where it was unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.ran),)


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """What the pickle below would make; it does where it is read."""
    made = tmp_path / "ran"
    pickle.loads(pickle.dumps(Evil(made)))
    made.rmdir()
    return made


@pytest.mark.faults(
    49, injected="a model whose weights are a pickle, alone or beside safetensors", happens="refused, or never opened"
)
def test_a_pickle_as_weights(ran: Path, tmp_path: Path) -> None:
    save_policy(tiny.policy(), tmp_path / "model")
    for name in ("pytorch_model.bin", "training_args.bin", "rng_state.pth", "optimizer.pt"):
        (tmp_path / "model" / name).write_bytes(pickle.dumps(Evil(ran)))
    load_policy(tmp_path / "model")
    adapt_policy(tmp_path / "model", 0)
    (tmp_path / "model/model.safetensors").unlink()
    with pytest.raises(PreflowError, match="a pickle, which could run code when read"):
        adapt_policy(tmp_path / "model", 0)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_policy(tmp_path / "model")
    (tmp_path / "model/model.safetensors").write_bytes(pickle.dumps(Evil(ran)))
    with pytest.raises(PreflowError, match="cannot be read"):
        adapt_policy(tmp_path / "model", 0)
    assert not ran.exists()


@pytest.mark.faults(
    49, injected="pickles in a checkpoint: random states, DCP metadata, as the tensors under a manifest that fits",
    happens="never opened; where tensors should be, set aside",
)  # fmt: skip
def test_pickles_in_a_checkpoint(ran: Path, tmp_path: Path) -> None:
    unbroken, _ = train(tmp_path / "checkpoints")
    shutil.rmtree(tmp_path / "checkpoints/step-000012")
    folder = tmp_path / "checkpoints/step-000009"
    for name in (".metadata", "__0_0.distcp", "rng_state.pth", "optimizer.pt", "scheduler.pt", "training_args.bin"):
        (folder / name).write_bytes(pickle.dumps(Evil(ran)))
    assert train(tmp_path / "checkpoints") == (unbroken, 9)
    newest = tmp_path / "checkpoints/step-000012"
    (newest / "tensors.safetensors").write_bytes(pickle.dumps(Evil(ran)))
    manifest = {name: fingerprint(newest / name) for name in ("tensors.safetensors", "state.json")}
    (newest / "manifest.json").write_text(json.dumps(manifest))
    found = Checkpoints(tmp_path / "checkpoints", every=3).newest()
    assert found is not None and found.step == 9
    assert "SafetensorError" in (tmp_path / "checkpoints/broken-step-000012/reason.txt").read_text()
    assert not ran.exists()


MODEL = """flavors:
  python_function:
    cloudpickle_version: 3.1.2
    loader_module: mlflow.pyfunc.model
    python_model: python_model.pkl
    python_version: 3.11.0
    streamable: false
model_uuid: 0123456789abcdef0123456789abcdef
"""


@pytest.mark.slow
@pytest.mark.faults(
    49, injected="a pickled model of MLflow, with the store of a project open", happens="MLflow refuses to read it"
)
def test_a_pickled_model_of_mlflow(ran: Path, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/MLmodel").write_text(MODEL)
    (tmp_path / "model/python_model.pkl").write_bytes(pickle.dumps(Evil(ran)))

    def load() -> None:
        import mlflow

        from tasks.tracking.store import connect

        connect(tmp_path)
        mlflow.pyfunc.load_model(str(tmp_path / "model"))

    assert ended(load, tmp_path / "errors") == 1
    said = (tmp_path / "errors").read_text()
    assert "MLFLOW_ALLOW_PICKLE_DESERIALIZATION" in said, said
    assert not ran.exists()
