"""What runs leave for the papers' figures: measured right, kept through a resume, off when not wanted."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from experiments.record import read, verify
from experiments.training import execute as execution
from experiments.training.adamw import AdamSettings, PackedAdamW
from experiments.training.diagnostics import dora, lora, matrices, qlora
from experiments.training.diagnostics.matrices import Change
from experiments.training.execute import Interrupted
from variants import Trained


@pytest.fixture
def run_of(run_of):
    """A run on a small table, in a folder of its own: `run_of("name", delta="dora")`."""

    def made(name, *, delta="lora", storage="fp32", **changes):
        axes = {"delta": delta, "storage": storage}
        return run_of(
            name, train={"steps": 8, "evaluations": 2, "log_every": 2}, r=3, axes=axes, options={}, **changes
        )

    return made


def arrays(run):
    """What is in the run's signatures.npz."""
    with np.load(run.folder.signatures, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


def directions(d, rank, draw):
    return lora.random_directions(d, rank, draw=draw)


# --- what a run leaves


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, 4),
        ({"delta": "dora"}, 4),
        ({"delta": "adalora"}, 4),
        ({"method": "full"}, None),
        ({"storage": "nf4"}, 4),
        ({"storage": "int4"}, 4),
    ],
    ids=["lora", "dora", "adalora", "full", "nf4", "int4"],
)
def test_a_run_leaves_finite_arrays_under_a_checksum(run_of, options, names, execute):
    run = run_of("run", **options)
    [record] = execute([run])
    found = arrays(run)
    assert verify(run.folder.path) == []
    assert "signatures.npz" in read(run.folder.path)["files"]
    assert list(found["moved/steps"]) == [4, 8] and list(found["gradient/steps"]) == [1, 4, 8]
    assert found["moved/magnitude"].shape == (2, len(found["moved/names"]))
    assert names is None or len(found["change/names"]) == names
    assert all(np.isfinite(value).all() for value in found.values() if value.dtype.kind == "f")
    assert record["cost"]["signatures_seconds"] > 0


def test_the_arrays_are_those_of_the_trained_matrices(run_of, monkeypatch, execute):
    kept = {}
    monkeypatch.setattr(execution, "_conclude", lambda run, k, trainer, record: kept.update(t=trainer))
    run = run_of("run")
    execute([run])
    found, pairs = arrays(run), kept["t"].attached.weights(0)
    for i, name in enumerate(found["change/names"]):
        W, after = (w.double().numpy() for w in pairs[str(name)])
        U, sigma, Vt = np.linalg.svd(after - W)
        assert found["change/sigma"][i] == pytest.approx(sigma[:3], rel=1e-4)
        assert found["change/norm"][i] == pytest.approx(np.linalg.norm(after - W), rel=1e-5)
        assert found["change/projected"][i] == pytest.approx(
            np.linalg.norm(U[:, :3].T @ W @ Vt[:3].T), rel=1e-3
        )
        top = np.linalg.svd(W, compute_uv=False)[:3]
        assert found["change/top"][i] == pytest.approx(np.linalg.norm(top), rel=1e-4)
        m, m0 = np.linalg.norm(after, axis=1), np.linalg.norm(W, axis=1)
        assert found["moved/magnitude"][-1, i] == pytest.approx(np.abs(m - m0).mean(), rel=1e-4)
        cosine = (after * W).sum(axis=1) / (m * m0)
        assert found["moved/direction"][-1, i] == pytest.approx((1 - cosine).mean(), rel=1e-3)
    for i, name in enumerate(found["vectors/names"]):
        W, after = (w.double().numpy() for w in pairs[str(name)])
        V = np.linalg.svd(after - W)[2][:3].T
        kept_V = found[f"vectors/{i}/change"].astype(float)
        assert np.abs(kept_V.T @ V) == pytest.approx(np.eye(3), abs=5e-3)  # equal up to signs
        top = np.linalg.svd(W)[2][: int(0.1 * 24)].T
        assert np.abs(found[f"vectors/{i}/base"]) == pytest.approx(np.abs(top.T @ V), abs=5e-3)


def test_a_base_loaded_into_four_bits_is_compared_with_the_checkpoints_own_weights(
    run_of, tiny_bert, execute
):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    run = run_of("run", storage="nf4")
    execute([run])
    found, dense = arrays(run), AutoModel.from_pretrained(tiny_bert)
    assert (
        found["storage/error"].shape == (6, len(found["storage/names"])) and len(found["storage/names"]) > 3
    )
    nf4 = list(found["storage/formats"]).index("nf4")
    for error, name in zip(found["storage/error"][nf4], found["storage/names"], strict=True):
        W = dense.get_submodule(str(name).removeprefix("bert.")).weight.detach()
        packed, state = bitsandbytes.functional.quantize_4bit(W, blocksize=64, quant_type="nf4")
        back = bitsandbytes.functional.dequantize_4bit(packed, state)
        assert error == pytest.approx(float(((W - back) ** 2).sum() / (W**2).sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("module", "what", "left"),
    [(qlora, "lacks the errors of the 4-bit formats", True), (lora, "was not made", False)],
)
def test_a_failure_in_signatures_is_a_note_of_a_completed_run(
    run_of, monkeypatch, module, what, left, execute
):
    def broken(*_, **__):
        raise RuntimeError("no such luck")

    monkeypatch.setattr(module, "arrays", broken)
    run = run_of("run")
    [record] = execute([run])
    assert record["status"] == "completed" and "test/accuracy" in record["metrics"]
    assert f"signatures.npz {what}: no such luck" in read(run.folder.path)["notes"]
    assert "Traceback" in run.folder.log.read_text() and verify(run.folder.path) == []
    assert run.folder.signatures.is_file() is left


def test_the_first_gradient_is_the_heads_and_that_of_b(run_of, execute):
    run = run_of("run")
    execute([run])
    found = arrays(run)
    assert found["gradient/in"][0] == 0 < found["gradient/out"][0]  # B = 0 at the start
    squares = sum(found[f"gradient/{role}"][0] ** 2 for role in ("in", "out", "head", "head_bias"))
    first = run.folder.history.read_text().splitlines()[0]
    assert f'"grad_norm": {np.sqrt(squares):.4f}' in first or np.sqrt(squares) == pytest.approx(
        float(first.split('"grad_norm": ')[1].split(",")[0]), rel=1e-5
    )


def test_a_resumed_run_leaves_the_same_arrays(run_of, execute):
    whole, stopped = run_of("whole"), run_of("stopped")
    execute([whole])
    answers = iter([False] * 6 + [True])
    with pytest.raises(Interrupted):
        execute([stopped], should_stop=lambda: next(answers))
    again = run_of("stopped")
    execute([again])
    assert again.folder.signatures.read_bytes() == whole.folder.signatures.read_bytes()


def test_a_run_leaves_the_same_arrays_in_a_pack(run_of, execute):
    solo, pack = run_of("solo", seed=1), [run_of("first", seed=0), run_of("second", seed=1)]
    execute([solo])
    execute(pack)
    alone, together = arrays(solo), arrays(pack[1])
    assert alone.keys() == together.keys()
    for name in ("change/norm", "change/projected", "moved/direction", "gradient/out"):
        assert together[name] == pytest.approx(alone[name], rel=1e-3)


def test_nothing_is_left_when_it_is_off_or_nothing_is_trained(run_of, execute):
    for run in (run_of("off", signatures=False), run_of("zero", method="zero")):
        [record] = execute([run])
        assert record["status"] == "completed"
        assert not run.folder.signatures.exists()


# --- pure functions


def test_the_amplification_of_a_known_change(draw):
    U, V = directions(9, 5, draw), directions(7, 5, draw)
    W = U @ torch.diag(torch.tensor([5.0, 4, 3, 2, 1], dtype=torch.float64)) @ V.T
    A, B = 6.0 * V[:, 4:].T, U[:, 4:]  # the weakest direction of W, amplified six times
    change = Change("q", 1, W, W + B @ A, A, B)
    row = lora.amplified(change, lora.decomposed(change), lora.right_of_base(W), rank=1, draw=draw)
    assert row["norm"] / row["projected"] == pytest.approx(6)
    assert row["top"] == pytest.approx(5, rel=1e-4)


@pytest.mark.parametrize("shape", [(9, 7), (7, 9)])
def test_the_spectrum_of_the_base_is_its_own(shape, draw):
    W = torch.randn(*shape, generator=draw, dtype=torch.float64)
    sigma, V = lora.right_of_base(W)
    expected, Vt = np.linalg.svd(W.numpy())[1:]
    assert sigma.numpy() == pytest.approx(expected, rel=1e-4)
    assert np.abs(V[:, :3].T.numpy() @ Vt[:3].T) == pytest.approx(np.eye(3), abs=1e-3)


def test_random_directions_hold_what_chance_says_of_a_base(draw):
    W = torch.randn(40, 30, generator=draw, dtype=torch.float64)
    found = [lora.projected(W, directions(40, 3, draw), directions(30, 3, draw)) for _ in range(300)]
    by_chance = float(W.norm()) * 3 / np.sqrt(40 * 30)
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(by_chance, rel=0.06)


def test_factors_and_the_dense_change_have_one_decomposition(draw):
    A, B = torch.randn(3, 7, generator=draw).double(), torch.randn(9, 3, generator=draw).double()
    W = torch.randn(9, 7, generator=draw).double()
    low, full = (lora.decomposed(Change("q", 3, W, W + B @ A, *factors)) for factors in ((A, B), ()))
    assert low.sigma.numpy() == pytest.approx(full.sigma[:3].numpy(), rel=1e-5)
    assert (low.U * low.sigma) @ low.V.T == pytest.approx(B @ A, abs=1e-9)


def test_magnitude_and_direction_change_apart():
    W = torch.tensor([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]], dtype=torch.float64)
    turned = torch.tensor([[-4.0, 3.0, 0.0], [0.0, 2.0, 0.0]], dtype=torch.float64)  # by right angles
    assert [float(v) for v in dora.magnitude_and_direction(2 * W, W)] == pytest.approx([3.5, 0])
    assert [float(v) for v in dora.magnitude_and_direction(turned, W)] == pytest.approx([0, 1])


def test_every_four_bit_storage_is_measured_as_it_is_stored(draw):
    """On normal weights nf4 loses least and fp4 most; test_int4.py has the theory."""
    assert sorted(qlora.formats()) == ["fp4", "int4", "nf4"]
    W = torch.randn(256, 128, generator=draw)
    error = {
        (name, double): qlora.relative_error(W, qlora.restored(W, name, double=double))
        for name in qlora.formats()
        for double in (False, True)
    }
    assert error["nf4", False] == pytest.approx(0.00846, rel=0.03)
    assert error["nf4", False] < error["int4", False] < error["fp4", False]
    for name in qlora.formats():
        assert error[name, False] < error[name, True] < 1.1 * error[name, False]


def test_int4_rounds_to_sevenths_of_the_blocks_largest():
    W = (torch.arange(-7, 8).repeat(9)[:128] / 7 * 3).view(2, 64)
    assert qlora.restored(W, "int4", double=False).numpy() == pytest.approx(W.numpy(), abs=1e-6)
    odd = torch.tensor([[1.0, -0.45, 0.1]])
    expected = np.array([7, -3, 1]) / 7
    assert qlora.restored(odd, "int4", double=False)[0].numpy() == pytest.approx(expected, abs=1e-6)


def test_role_norms_are_the_parts_of_the_whole(draw):
    shapes = {"in": (2, 3, 5), "out": (2, 7, 3), "head": (2, 4)}
    trained = [
        Trained(role, torch.nn.Parameter(torch.randn(*shape, generator=draw)), role, slice(0, 2))
        for role, shape in shapes.items()
    ]
    rates = [dict.fromkeys(shapes, (0.1, 0.0))] * 2
    optimiser = PackedAdamW(trained, rates=rates, settings=[AdamSettings()] * 2)
    for t in trained:
        t.parameter.grad = torch.randn(t.parameter.shape, generator=draw)
    norms = optimiser.role_norms()
    for t in trained:
        assert norms[t.role] == pytest.approx(t.parameter.grad.flatten(1).norm(dim=1))
    whole = sum(norm**2 for norm in norms.values()).sqrt()
    assert whole == pytest.approx(optimiser.grad_norm())


def test_a_large_model_is_sampled_evenly_over_its_layers():
    names = [f"h.{i}.{kind}" for i in range(30) for kind in ("q", "v")]
    kept = matrices.spread(names, 12)
    assert len(kept) == 12
    layers = [int(name.split(".")[1]) for name in kept if name.endswith("q")]
    assert layers == [2, 7, 12, 17, 22, 27]
    assert matrices.spread(names, 1) == ["h.15.q", "h.15.v"]
    assert matrices.spread(names[:4], 12) == names[:4]
