"""`fit` and `predict`: they learn, repeat, go on after a stop, and name the bag that is wrong."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader

from mil_tutorial import (
    ABMIL,
    DataError,
    MeanPool,
    bags_from_arrays,
    collate_fn,
    collate_packed,
    fit,
    patch_metrics,
    predict,
    split_bags,
)


def easy_bags(n=40, seed=0, dim=8):
    """Positive bags hold a few patches far from the others."""
    rng = np.random.default_rng(seed)
    arrays, labels = [], []
    for i in range(n):
        X = rng.normal(size=(rng.integers(3, 15), dim))
        if i % 2:
            X[:2] += 3
        arrays.append(X)
        labels.append(i % 2)
    return bags_from_arrays(arrays, labels)


def loader(bags, seed=None, collate=collate_fn, batch_size=4):
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    return DataLoader(bags, batch_size=batch_size, shuffle=seed is not None, generator=generator, collate_fn=collate)


def train(collate=collate_fn, **options):
    torch.manual_seed(0)
    model = ABMIL(8)
    history = fit(
        model,
        loader(easy_bags(), 0, collate),
        loader(easy_bags(20, 1), None, collate),
        epochs=8,
        lr=1e-3,
        device="cpu",
        progress=False,
        **options,
    )
    return model, history


@pytest.mark.slow
def test_it_learns_repeats_and_keeps_the_best_epoch():
    (model, history), (again, _) = train(), train()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert history.best_epoch == int(np.argmin(history.val_loss)) and history.train_loss[-1] < history.train_loss[0]
    found = predict(model, loader(easy_bags(20, 1)), "cpu")
    loss = -np.mean(np.log(np.where(found.Y == 1, found.prob, 1 - found.prob)))
    assert loss == pytest.approx(min(history.val_loss), abs=1e-5), "the model does not hold its best weights"
    assert roc_auc_score(found.Y, found.prob) > 0.9


@pytest.mark.slow
def test_padded_and_packed_training_agree():
    (_, padded), (model, packed) = train(), train(collate_packed)
    assert np.allclose(padded.val_loss, packed.val_loss, atol=1e-4)
    a, b = (predict(model, loader(easy_bags(20, 1), None, c), "cpu") for c in (collate_fn, collate_packed))
    assert np.allclose(a.prob, b.prob, atol=1e-5)
    assert all(
        np.allclose(x, y, atol=1e-5) and len(x) == len(bag["X"])
        for x, y, bag in zip(a.attention, b.attention, easy_bags(20, 1), strict=True)
    )


def test_validation_sees_no_dropout_and_no_gradient():
    seen = set()

    class Spy(ABMIL):
        def compute_loss(self, Y, X, mask=None):
            seen.add((self.training, torch.is_grad_enabled()))
            return super().compute_loss(Y, X, mask)

    fit(Spy(8), loader(easy_bags(), 0), loader(easy_bags(8, 1)), epochs=1, device="cpu", progress=False)
    assert seen == {(True, True), (False, False)}


def test_patience_stops_and_the_logger_hears_of_it():
    records = []

    class Logger:
        def log(self, record):
            records.append(record)

    noise = bags_from_arrays([np.random.default_rng(i).normal(size=(4, 8)) for i in range(12)], [0, 1] * 6)
    history = fit(
        ABMIL(8),
        loader(noise, 0),
        loader(easy_bags(20, 1)),
        epochs=60,
        lr=5e-3,
        patience=3,
        device="cpu",
        logger=Logger(),
        progress=False,
    )
    assert len(history.val_loss) == history.best_epoch + 4 == len(records) < 60


def test_clear_errors():
    good = easy_bags()
    with pytest.raises(DataError, match="3 training bags, such as bag 0, have the label 0"):
        fit(ABMIL(8), loader(good.subset([0, 2, 4]), 0), loader(good), device="cpu")
    with pytest.raises(DataError, match="val: the loader has no batches"):
        fit(ABMIL(8), loader(good, 0), loader(good.subset([])), device="cpu")
    good.bags[3]["X"][0, 0] = float("inf")
    with pytest.raises(DataError, match="bag 3: 1 of its features"):
        fit(ABMIL(8), loader(good, 0), loader(good), epochs=1, device="cpu", progress=False)
    with pytest.raises(ValueError, match="shuffle=False"):
        predict(ABMIL(8), loader(good, 0), "cpu")


@pytest.mark.heavy
def test_the_fixture_behaves_as_designed(data):
    """Three seeds of five, to save time: AUC in its band, above mean pooling, attention near the tumour.

    Shuffled labels stay at chance.
    """
    part = {s: data.bags(s, keys=["X", "Y", "y_inst"], encoder="efficientnet_lite0") for s in ("train", "test")}
    memory = {s: bags_from_arrays([b["X"] for b in d], d.get_bag_labels(), d.get_bag_names()) for s, d in part.items()}
    y_inst = [bag["y_inst"].numpy() for bag in part["test"]]

    def run(make, seed, labels=None):
        bags = memory["train"]
        if labels is not None:
            bags = bags_from_arrays([b["X"] for b in bags], labels)
        known, val = split_bags(bags, seed=seed)
        torch.manual_seed(seed)
        model = make(1280)
        fit(model, loader(known, seed), loader(val), device="cpu", progress=False)
        found = predict(model, loader(memory["test"]), "cpu")
        return roc_auc_score(found.Y, found.prob), found

    abmil = [run(ABMIL, seed) for seed in range(3)]
    mean = [run(MeanPool, seed)[0] for seed in range(3)]
    aucs = [auc for auc, _ in abmil]
    assert all(0.85 <= auc <= 0.99 for auc in aucs), aucs
    assert np.mean(aucs) > np.mean(mean) + 0.04, (aucs, mean)
    found = abmil[0][1]
    patch = [patch_metrics(y, a)["auc"] for y, a, Y in zip(y_inst, found.attention, found.Y, strict=True) if Y == 1]
    assert np.nanmean(patch) > 0.8
    shuffled = [
        run(ABMIL, seed, np.random.default_rng(seed).permutation(part["train"].get_bag_labels()))[0]
        for seed in range(3)
    ]
    assert 0.3 < np.mean(shuffled) < 0.7, shuffled


class Net(ABMIL):
    """ABMIL with dropout, so that random numbers matter."""

    def __init__(self):
        super().__init__(8, feat_ext=torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Dropout(0.3)))


def run_with_checkpoint(folder, epochs=6, stop_after=None, **options):
    torch.manual_seed(1)
    model = Net()
    train_loader, val_loader = loader(easy_bags(), 5), loader(easy_bags(12, 1))

    class Stop:
        def log(self, record):
            if record["epoch"] == stop_after:
                raise KeyboardInterrupt

    try:
        history = fit(
            model,
            train_loader,
            val_loader,
            epochs=epochs,
            lr=3e-3,
            device="cpu",
            progress=False,
            checkpoint=folder,
            schedule="cosine",
            logger=Stop(),
            **options,
        )
    except KeyboardInterrupt:
        return None, None
    return model, history


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [0, 2, 5])
def test_resumed_training_ends_with_the_same_weights(tmp_path, stop_after):
    whole, history = run_with_checkpoint(tmp_path / "whole")
    run_with_checkpoint(tmp_path / "cut", stop_after=stop_after)
    resumed, again = run_with_checkpoint(tmp_path / "cut", resume=True)
    assert again == history
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    finished, third = run_with_checkpoint(tmp_path / "cut", resume=True)  # nothing left to do
    assert third == history
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), finished.state_dict().values(), strict=True)
    )
    best = torch.load(tmp_path / "cut" / "best.pt", weights_only=True)
    assert best["epoch"] == history.best_epoch
    assert all(torch.equal(a, b) for a, b in zip(best["model"].values(), whole.state_dict().values(), strict=True))


KILLED = """
import sys; sys.path.insert(0, {here!r})
from test_fit import run_with_checkpoint
import torch
model, history = run_with_checkpoint({folder!r}, epochs=40, resume=True)
torch.save(model.state_dict(), {out!r})
"""


@pytest.mark.heavy
def test_killed_at_random_moments_and_resumed(tmp_path):
    """Five moments here; `make kill` tries twenty."""
    import os
    import subprocess
    import sys
    import time
    from pathlib import Path

    rng = np.random.default_rng(int(os.environ.get("MIL_TUTORIAL_SEED", 0)))
    wanted, _ = run_with_checkpoint(tmp_path / "whole", epochs=40)
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path / "cut"), out=str(tmp_path / "end.pt"))
    kills = int(os.environ.get("MIL_TUTORIAL_KILLS", 5))
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, "-c", code])
        for _ in range(3000):  # until training is on its way
            if process.poll() is not None or (tmp_path / "cut").exists():
                break
            time.sleep(0.01)
        start = (tmp_path / "cut" / "last.pt").stat().st_mtime_ns if (tmp_path / "cut" / "last.pt").exists() else 0
        for _ in range(1000):
            last = tmp_path / "cut" / "last.pt"
            if process.poll() is not None or (last.exists() and last.stat().st_mtime_ns != start):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        for file in (tmp_path / "cut").glob("[!.]*.pt"):
            torch.load(file, weights_only=True)
    subprocess.run([sys.executable, "-c", code], check=True)
    found = torch.load(tmp_path / "end.pt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(wanted.state_dict().values(), found.values(), strict=True))


def test_bad_checkpoints_are_named(tmp_path):
    run_with_checkpoint(tmp_path, epochs=2)
    with pytest.raises(DataError, match=r"last\.pt: was made with cosine_epochs 2, now it is 3"):
        run_with_checkpoint(tmp_path, epochs=3, resume=True)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:500])
    with pytest.raises(DataError, match=r"last\.pt: is not a whole checkpoint"):
        run_with_checkpoint(tmp_path, epochs=2, resume=True)


def test_accumulated_batches_are_one_large_batch():
    bags = easy_bags(12)
    weights = []
    for size, accumulate in ((6, 1), (2, 3)):
        torch.manual_seed(0)
        model = ABMIL(8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = loader(bags, None, batch_size=size)
        options = {"optimizer": optimizer, "accumulate": accumulate, "device": "cpu", "progress": False}
        fit(model, batches, loader(bags), epochs=2, **options)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.allclose(*weights, atol=1e-5)


def test_class_weights_and_a_balanced_sampler():
    from mil_tutorial import balanced_sampler, positive_weight

    labels = [0] * 90 + [1] * 10
    drawn = [labels[i] for _ in range(20) for i in balanced_sampler(labels, 0)]
    assert positive_weight(labels) == 9.0
    assert 0.4 < np.mean([labels[i] for i in balanced_sampler(labels, 3)]) < 0.6 and 0.4 < np.mean(drawn) < 0.6
    bags = easy_bags(8)
    torch.manual_seed(0)
    model = ABMIL(8)
    histories = [
        fit(
            model,
            loader(bags),
            loader(bags),
            epochs=1,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
            device="cpu",
            progress=False,
            pos_weight=weight,
        )
        for weight in (None, 3.0)
    ]
    found = predict(model, loader(bags), "cpu")
    losses = -np.log(np.where(found.Y == 1, found.prob, 1 - found.prob))
    plain, weighted = (history.train_loss[0] for history in histories)
    assert plain == pytest.approx(losses.mean(), abs=1e-5)
    assert weighted == pytest.approx((losses * np.where(found.Y == 1, 3, 1)).mean(), abs=1e-5)
    for history in histories:  # the validation loss is unweighted, so that runs can be compared
        assert history.val_loss[0] == pytest.approx(losses.mean(), abs=1e-5)


@pytest.mark.slow
def test_bfloat16_stays_near_float32():
    from mil_tutorial.training.step import pick_precision

    (_, exact), (model, rough) = train(), train(precision="bfloat16")
    assert np.abs(np.array(exact.val_loss) - rough.val_loss).max() < 0.02
    assert all(p.dtype == torch.float32 for p in model.parameters())
    (_, packed) = train(collate_packed, precision="bfloat16")
    assert np.abs(np.array(packed.val_loss) - rough.val_loss).max() < 0.02
    with pytest.raises(ValueError, match="'half'"):
        train(precision="half")
    assert pick_precision("auto", torch.device("cpu")) in (torch.float32, torch.bfloat16)


def test_tensorboard_s_writer_and_the_learning_rate():
    rates, seen = [], []

    class Writer:
        def add_scalar(self, tag, value, step):
            seen.append((tag, step))

    torch.manual_seed(0)
    model = ABMIL(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda o, *_: rates.append(o.param_groups[0]["lr"]))
    fit(
        model,
        loader(easy_bags(4)),
        loader(easy_bags(4)),
        epochs=4,
        optimizer=optimizer,
        logger=Writer(),
        device="cpu",
        progress=False,
        schedule="cosine",
    )
    assert {tag for tag, _ in seen} == {"train_loss", "val_loss", "val_auc"}
    assert [epoch for _, epoch in seen[::3]] == [0, 1, 2, 3]
    assert rates[0] == 0.1 and rates == sorted(rates, reverse=True) and rates[-1] < 0.02


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda bags: bags.bags[5].set("Y", torch.tensor(2.0)), "bag 5: its label is 2"),
        (lambda bags: bags.bags[3]["X"].mul_(1e30), "bag 3: the model's answer for it is"),
    ],
)
def test_bad_bags_are_named(change, message):
    bags = easy_bags(8)
    change(bags)
    with pytest.raises(DataError, match=message):
        model = ABMIL(8, feat_ext=torch.nn.Sequential(torch.nn.Linear(8, 8), Cube()))
        fit(model, loader(bags, batch_size=1), loader(easy_bags(4)), epochs=1, device="cpu", progress=False)


class Cube(torch.nn.Module):
    def forward(self, x):
        return x**3


def test_a_model_for_other_features_is_named():
    with pytest.raises(DataError, match="bag 0: has 8 features for each patch, the model was made for 16"):
        fit(ABMIL(16), loader(easy_bags()), loader(easy_bags()), epochs=1, device="cpu", progress=False)


def test_predict_refuses_loaders_that_lose_bags():
    with pytest.raises(ValueError, match="drop"):
        predict(ABMIL(8), DataLoader(easy_bags(5), batch_size=2, drop_last=True, collate_fn=collate_fn), "cpu")
    with pytest.raises(DataError, match="loader: the loader has no batches"):
        predict(ABMIL(8), loader(easy_bags(5).subset([])), "cpu")


def test_fit_is_the_plain_loop():
    """The same bags in the same order, the same losses."""
    torch.manual_seed(0)
    model = ABMIL(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    plain = []
    order = loader(easy_bags(), 7)
    for _ in range(3):
        losses = []
        for batch in order:
            loss = model.compute_loss(batch["Y"], batch["X"], batch["mask"])[1]["BCEWithLogitsLoss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        plain.append(np.mean(losses))
    for progress in (False, True):
        torch.manual_seed(0)
        model = ABMIL(8)
        history = fit(
            model,
            loader(easy_bags(), 7),
            loader(easy_bags(4)),
            epochs=3,
            device="cpu",
            progress=progress,
            optimizer=torch.optim.Adam(model.parameters(), lr=1e-3),
        )
        assert np.allclose(history.train_loss, plain, atol=1e-6)
