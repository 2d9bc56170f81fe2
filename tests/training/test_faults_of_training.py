"""What used to pass in silence, and what `fit` and `predict` must leave as they found it."""

import numpy as np
import pytest
import torch
from test_fit import Net, easy_bags, loader, run_with_checkpoint
from torch.utils.data import DataLoader

from mil_tutorial import (
    ABMIL,
    DataError,
    MaxPool,
    MeanPool,
    ParameterError,
    bags_from_arrays,
    balanced_sampler,
    collate_fn,
    collate_packed,
    fit,
    positive_weight,
    predict,
    split_bags,
)
from mil_tutorial.devices import threads
from mil_tutorial.training.fit import FitOptions
from mil_tutorial.training.predict import mean_loss

NAN = float("nan")
IMPOSSIBLE = {
    "epochs": [0, 2.5, True],
    "lr": [NAN, -1, 0, "fast"],
    "weight_decay": [-1e-3],
    "patience": [-3, 0, 1.5],
    "accumulate": [0],
    "seed": [-1, 0.5, 2**64],
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


UNFIT = {
    "optimizer": ["adam", torch.optim.AdamW, torch.optim.SGD(ABMIL(8).parameters(), lr=0.1)],
    "logger": ["tensorboard", 3],
    "checkpoint": [3, b"folder", ""],
    "resume": ["yes", 1],
    "device": ["gpu", "meta", []],
}


@pytest.mark.parametrize("name,value", [(name, value) for name, values in UNFIT.items() for value in values])
def test_what_fit_cannot_work_with_is_named(name, value):
    option = {name: value}
    with pytest.raises(ParameterError, match=f"^{name}: found"):
        fit(ABMIL(8), loader(easy_bags()), None, epochs=1, progress=False, **option)


def test_a_run_cannot_go_on_from_nowhere():
    with pytest.raises(ParameterError, match=r"^checkpoint: found None, expected the folder to go on from"):
        fit(ABMIL(8), loader(easy_bags()), None, epochs=1, progress=False, resume=True)


@pytest.mark.parametrize("call", [fit, predict, mean_loss])
@pytest.mark.parametrize("model", ["abmil", ABMIL], ids=["str", "class"])
def test_something_else_in_place_of_a_model(call, model):
    batches = loader(easy_bags())
    with pytest.raises(ParameterError, match=r"^model: found a (str|type), expected a torch\.nn\.Module"):
        call(model, batches, *([None] if call is fit else []))


def test_batches_of_something_else_than_bags():
    pairs = DataLoader([(torch.zeros(3, 8), i % 2) for i in range(4)], batch_size=2)
    for call, name in (
        (lambda: fit(ABMIL(8), pairs, None, epochs=1, progress=False), "train"),
        (lambda: fit(ABMIL(8), loader(easy_bags(4)), pairs, epochs=1, progress=False), "val"),
        (lambda: predict(ABMIL(8), pairs), "loader"),
    ):
        with pytest.raises(ParameterError, match=f"^{name}: found batches of another kind: list"):
            call()
    for call in (predict, mean_loss):
        with pytest.raises(DataError, match="bag 0: has 8 features for each patch, the model was made for 4"):
            call(ABMIL(4), loader(easy_bags(4)))


class Answering(ABMIL):
    """Gives what `change` makes of logits and attention, or of logits and losses."""

    def __init__(self, change):
        super().__init__(8)
        self.change = change

    def forward(self, X, mask=None, return_att=False):
        logits, attention = super().forward(X, mask, True)
        return self.change(logits, attention) if return_att else logits

    def forward_packed(self, X, offsets, return_att=False):
        logits, attention = super().forward_packed(X, offsets, True)
        return self.change(logits, attention) if return_att else logits

    def compute_loss(self, Y, X, mask=None, offsets=None):
        return self.change(*super().compute_loss(Y, X, mask, offsets))


OTHER_ANSWERS = {
    "logits only": lambda logits, more: logits,
    "three": lambda logits, more: (logits, more, more),
    "nothing more": lambda logits, more: (logits, None),
    "logits twice": lambda logits, more: (logits, logits),
    "a column of logits": lambda logits, more: (logits[:, None], more),
    "a dictionary": lambda logits, more: {"logits": logits, "more": more},
}


@pytest.mark.parametrize("answer", OTHER_ANSWERS)
@pytest.mark.parametrize("collate", [collate_fn, collate_packed])
def test_models_that_give_something_else(answer, collate):
    model, batches = Answering(OTHER_ANSWERS[answer]), loader(easy_bags(4), None, collate)
    with pytest.raises(ParameterError, match="model: found Answering, whose forward gives something else"):
        predict(model, batches, "cpu")
    with pytest.raises(ParameterError, match="model: found Answering, whose compute_loss gives something else"):
        fit(model, batches, None, epochs=1, device="cpu", progress=False)


def test_attention_with_a_last_dimension_of_one_is_flattened():
    """torchmil's DSMIL gives (B, N, 1)."""
    for collate in (collate_fn, collate_packed):
        model = Answering(lambda logits, attention: (logits, attention[..., None]))
        sizes = [a.shape for a in predict(model, loader(easy_bags(6), None, collate), "cpu").attention]
        assert sizes == [(len(bag["X"]),) for bag in easy_bags(6)]


def test_models_that_need_what_the_batches_lack():
    class Graph(ABMIL):
        def compute_loss(self, Y, X, adj, mask=None):
            return super().compute_loss(Y, X, mask)

    with pytest.raises(ParameterError, match="Graph, whose compute_loss needs adj, which the batches lack"):
        fit(Graph(8), loader(easy_bags()), None, epochs=1, progress=False)


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


def test_batches_are_made_on_one_thread():
    """Threads that copied a small batch would go on spinning beside the step."""
    seen = set()

    def collate(bags):
        seen.add(torch.get_num_threads())
        return collate_fn(bags)

    batches = loader(easy_bags(8), None, collate)
    with threads(2):
        fit(ABMIL(8), batches, batches, epochs=1, device="cpu", progress=False)
        predict(ABMIL(8), batches, "cpu")
        with pytest.raises(DataError):
            predict(ABMIL(4), batches, "cpu")
        assert torch.get_num_threads() == 2
    assert seen == {1}


@pytest.mark.slow
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


def checkpoint_of(tmp_path, model=None, batches=None, **options):
    """One epoch more in the same folder, by default of the same run."""
    options = {"epochs": 1, "device": "cpu", "progress": False, "checkpoint": tmp_path, "resume": True, **options}
    return fit(model or ABMIL(8), batches or loader(easy_bags(12)), None, **options)


def halving(optimizer):
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)


def test_a_run_goes_on_only_as_it_began(tmp_path):
    checkpoint_of(tmp_path)
    ours = ABMIL(8)
    two_groups = torch.optim.AdamW([{"params": p} for p in ours.parameters()])
    for message, options in {
        "optimizer AdamW, now it is SGD": {"model": ours, "optimizer": torch.optim.SGD(ours.parameters(), lr=0.1)},
        "schedule None, now it is StepLR": {"schedule": halving},
        "seeded order False, now it is True": {"batches": loader(easy_bags(12), 0)},
        "training bags 12, now it is 8": {"batches": loader(easy_bags(8))},
        "batches 3, now it is 6": {"batches": loader(easy_bags(12), batch_size=2)},
        "lr 0.0005, now it is 0.001": {"lr": 1e-3},
    }.items():
        with pytest.raises(DataError, match=rf"last\.pt: was made with {message}"):
            checkpoint_of(tmp_path, epochs=2, **options)
    for options in ({"model": ABMIL(8, att_dim=4)}, {"model": ours, "optimizer": two_groups}):
        with pytest.raises(DataError, match=r"last\.pt: holds another model, optimizer"):
            checkpoint_of(tmp_path, epochs=2, **options)
    assert len(checkpoint_of(tmp_path, epochs=2).train_loss) == 2


def test_numpy_s_numbers_can_be_options_of_a_run_that_goes_on(tmp_path):
    options = {"lr": np.float32(1e-3), "seed": np.int64(3), "pos_weight": np.float64(2), "schedule": "cosine"}
    checkpoint_of(tmp_path, epochs=np.int64(2), **options)
    assert len(checkpoint_of(tmp_path, epochs=np.int64(2), **options).train_loss) == 2


@pytest.mark.parametrize("labels", [[0, 0], [], [0, 2], ["a", "b"], [NAN, 1], [[0, 1]]])
def test_classes_that_cannot_be_balanced(labels):
    error = DataError if labels in ([0, 0], []) else ParameterError
    for call in (positive_weight, lambda labels: balanced_sampler(labels, 0)):
        with pytest.raises(error, match="both are needed" if error is DataError else r"^labels: found"):
            call(labels)
    with pytest.raises(ParameterError, match=r"^seed: found -1"):
        balanced_sampler([0, 1], -1)


@pytest.mark.parametrize("labels", [[0] * 10, [0] * 18 + [1] * 2, [0] * 9 + [1], [0, 1]])
def test_a_split_has_both_labels_on_both_sides(labels):
    bags = bags_from_arrays([np.ones((2, 3))] * len(labels), labels)
    with pytest.raises(DataError, match="cannot be split 80% to 20% with both labels on both sides"):
        split_bags(bags)


def test_bags_are_split_whole_and_stratified():
    bags = easy_bags(20)
    train, val = split_bags(bags, seed=3)
    assert len(train) == 16 and sorted(val.get_bag_labels()) == [0, 0, 1, 1]
    assert sorted(train.get_bag_names() + val.get_bag_names()) == sorted(bags.get_bag_names())
    again, other = (split_bags(bags, seed=seed)[1].get_bag_names() for seed in (3, 4))
    assert again == val.get_bag_names() != other
    few = split_bags(easy_bags(4))
    assert [sorted(part.get_bag_labels()) for part in few] == [[0, 1], [0, 1]]
    with pytest.raises(DataError, match=r"3 bags \(by label: \{0: 2, 1: 1\}\) cannot be split 80% to 20%"):
        split_bags(easy_bags(3))
    for fraction in (0, 1, 1.5, NAN, "half"):
        with pytest.raises(ParameterError, match=r"^val_fraction: found"):
            split_bags(bags, val_fraction=fraction)
    for seed in (-1, 2**32, 0.5):
        with pytest.raises(ParameterError, match=r"^seed: found"):
            split_bags(bags, seed=seed)
    with pytest.raises(ParameterError, match=r"^bags: found a list"):
        split_bags([1, 2, 3])
