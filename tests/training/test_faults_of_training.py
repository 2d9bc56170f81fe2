"""What used to pass in silence, and what `fit` and `predict` must leave as they found it."""

import numpy as np
import pytest
import torch
from test_fit import Net, easy_bags, loader, run_with_checkpoint

from mil_tutorial import ABMIL, DataError, MaxPool, MeanPool, ParameterError, collate_fn, collate_packed, fit, predict
from mil_tutorial.devices import threads
from mil_tutorial.training.fit import FitOptions
from mil_tutorial.training.recipe import split_bags

NAN = float("nan")
IMPOSSIBLE = {
    "epochs": [0, 2.5, True],
    "lr": [NAN, -1, 0, "fast"],
    "weight_decay": [-1e-3],
    "patience": [-3, 0, 1.5],
    "accumulate": [0],
    "seed": [-1, 0.5],
    "pos_weight": [-5, NAN, 0],
    "monitor": ["f1"],
    "precision": ["half"],
    "schedule": ["linear"],
}


@pytest.mark.parametrize("name,value", [(name, value) for name, values in IMPOSSIBLE.items() for value in values])
def test_options_that_cannot_be_are_named(name, value):
    option = {name: value}
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        FitOptions(**option)
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        fit(ABMIL(8), loader(easy_bags()), loader(easy_bags(8)), progress=False, **option)


@pytest.mark.parametrize("given", [easy_bags(), [1, 2], None, "train"], ids=["dataset", "list", "None", "str"])
def test_something_else_in_place_of_a_loader(given):
    with pytest.raises(ParameterError, match=r"^train: found a \w+, expected a loader of batches"):
        fit(ABMIL(8), given, None, epochs=1, progress=False)
    with pytest.raises(ParameterError, match=r"^loader: found"):
        predict(ABMIL(8), given)


def test_models_that_cannot_be_trained_or_asked():
    with pytest.raises(ParameterError, match="model: found Linear without `compute_loss`"):
        fit(torch.nn.Linear(8, 1), loader(easy_bags()), None, epochs=1, progress=False)
    with pytest.raises(ParameterError, match="model: found Linear without `return_att`"):
        predict(torch.nn.Linear(8, 1), loader(easy_bags()))


def test_the_auc_of_one_class_cannot_choose_the_epoch():
    one_class = easy_bags(20).subset(range(0, 20, 2))
    with pytest.raises(DataError, match="all 10 validation bags have the label 0, so their AUC is not defined"):
        fit(ABMIL(8), loader(easy_bags()), loader(one_class), epochs=1, monitor="auc", progress=False)

    class Unlabelled:  # a dataset that does not tell its labels: noticed after the first epoch
        def __len__(self):
            return len(one_class)

        def __getitem__(self, index):
            return one_class[index]

    with pytest.raises(DataError, match="one class only"):
        fit(ABMIL(8), loader(easy_bags()), loader(Unlabelled()), epochs=2, monitor="auc", progress=False)
    fit(ABMIL(8), loader(easy_bags()), loader(one_class), epochs=1, progress=False)  # the loss can


def test_packed_batches_go_through_the_model_s_own_loss():
    class Twice(ABMIL):
        """A loss of its own: twice the usual."""

        def compute_loss(self, Y, X, mask=None, offsets=None):
            logits, losses = super().compute_loss(Y, X, mask, offsets)
            return logits, {name: 2 * value for name, value in losses.items()}

    losses = []
    for model in (ABMIL, Twice):
        torch.manual_seed(0)
        network = model(8)
        sgd = torch.optim.SGD(network.parameters(), lr=0.0)
        packed = loader(easy_bags(12), None, collate_packed)
        losses.append(fit(network, packed, packed, epochs=1, optimizer=sgd, progress=False))
    assert losses[1].train_loss[0] == pytest.approx(2 * losses[0].train_loss[0], rel=1e-6)
    assert losses[1].val_loss[0] == pytest.approx(2 * losses[0].val_loss[0], rel=1e-6)

    class Padded(ABMIL):
        """Knows no packed batches: it must not be bypassed."""

        def compute_loss(self, Y, X, mask=None):
            return super().compute_loss(Y, X, mask)

    with pytest.raises(ParameterError, match="Padded, whose compute_loss takes no `offsets`, and packed batches"):
        fit(Padded(8), loader(easy_bags(), None, collate_packed), None, epochs=1, progress=False)


@pytest.mark.parametrize("model", [MeanPool, MaxPool])
def test_baselines_train_on_packed_batches(model):
    torch.manual_seed(0)
    network = model(8)
    fit(network, loader(easy_bags(), 0, collate_packed), None, epochs=2, progress=False)
    padded, packed = (predict(network, loader(easy_bags(), None, c)) for c in (collate_fn, collate_packed))
    assert np.allclose(padded.prob, packed.prob, atol=1e-6)


class Watching(Net):
    """Notes how many threads torch has when it is asked."""

    seen: set

    def compute_loss(self, Y, X, mask=None, offsets=None):
        self.seen.add(torch.get_num_threads())
        return super().compute_loss(Y, X, mask, offsets)


def test_threads_fit_the_work_and_are_given_back(monkeypatch):
    for small, wanted in ((1 << 60, {1}), (0, {2})):
        monkeypatch.setattr("mil_tutorial.training.step.SMALL", small)
        model = Watching()
        model.seen = set()
        with threads(2):
            fit(model, loader(easy_bags(8)), loader(easy_bags(8)), epochs=1, device="cpu", progress=False)
            predict(model, loader(easy_bags(8)), "cpu")
            assert torch.get_num_threads() == 2
        assert model.seen == wanted


def test_a_resumed_run_keeps_the_threads_that_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr("mil_tutorial.training.step.SMALL", 0)  # all steps count as large
    with threads(2):
        whole, _ = run_with_checkpoint(tmp_path / "whole")
        run_with_checkpoint(tmp_path / "cut", stop_after=2)
    monkeypatch.setattr("test_fit.Net", Watching)
    Watching.seen = set()
    with threads(1):
        resumed, _ = run_with_checkpoint(tmp_path / "cut", resume=True)
        assert torch.get_num_threads() == 1
    assert Watching.seen == {2}
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_checkpoint_without_a_number_of_threads_is_taken(tmp_path):
    run_with_checkpoint(tmp_path, stop_after=2)
    last = tmp_path / "last.pt"
    state = torch.load(last, weights_only=True)
    del state["threads"]  # as earlier versions wrote it
    torch.save(state, last)
    _, history = run_with_checkpoint(tmp_path, resume=True)
    assert len(history.val_loss) == 6


def test_bags_are_split_whole_and_stratified():
    bags = easy_bags(20)
    train, val = split_bags(bags, seed=3)
    assert len(train) == 16 and sorted(val.get_bag_labels()) == [0, 0, 1, 1]
    assert sorted(train.get_bag_names() + val.get_bag_names()) == sorted(bags.get_bag_names())
    assert (
        split_bags(bags, seed=3)[1].get_bag_names()
        == val.get_bag_names()
        != split_bags(bags, seed=4)[1].get_bag_names()
    )
    with pytest.raises(DataError, match=r"3 bags \(by label: \{0: 2, 1: 1\}\) cannot be split 80% to 20%"):
        split_bags(easy_bags(3))
    with pytest.raises(ParameterError, match=r"val_fraction: found 1\.5"):
        split_bags(bags, val_fraction=1.5)
