"""The built-in recipes, flags, and recipes that extend others."""

import pytest
from conftest import TINY

from jaxdrill import config
from jaxdrill.config.config import Optimizer
from jaxdrill.config.layers import count_parameters
from jaxdrill.errors import UsageError


def changes(step: str, base: str) -> dict:
    """Return the fields that differ between two steps, except network, name and goal."""
    new, old = (
        dict((name, value) for name, _, value in config.options(config.load(s)))
        for s in (step, base)
    )
    return {name: value for name, value in new.items() if value != old[name] and name != "goal"}


def test_steps_are_those_of_the_drill():
    drill = ["step_1", "step_2", "step_3", "step_4", "step_4_adam", "step_5", "step_5_exponential"]
    assert config.steps() == [*drill, "step_6", "step_6_fast", "step_6_one", "step_6_small"]


@pytest.mark.parametrize(
    ("step", "parameters", "epochs"),
    [("6", 9_999, 15), ("6_fast", 9_999, 5), ("6_one", 9_999, 1), ("6_small", 3_000, 15)],
)
def test_step_6_keeps_its_limits(step, parameters, epochs):
    recipe = config.load(step)
    assert (
        recipe.extends == "step_5"
        and recipe.epochs == epochs
        and count_parameters(recipe.network) <= parameters
    )
    assert (recipe.hold_out, recipe.evaluate_on) == (
        0,
        "auto",
    )  # all training images, and the test's
    assert not any(getattr(layer, "dropout", 0) for layer in recipe.network)


def test_the_order_of_the_drill():
    """Recipes follow their bases, otherwise in natural order. Missing bases are sorted by name."""
    extends = {
        "step_10": "step_9",
        "step_9": "step_2",
        "step_2": "step_1",
        "step_1": "",
        "mine": "step_2",
        "own": "x",
    }
    assert config.drill_order(extends) == ["step_1", "step_2", "mine", "step_9", "step_10", "own"]
    assert config.drill_order({"step_10": "step_1", "step_2": "step_1"}) == ["step_2", "step_10"]
    assert config.drill_order({"step_5": "step_4", "step_2": "step_1"}) == ["step_2", "step_5"]
    assert config.drill_order({"b": "a", "a": "b", "c": "c"}) == ["b", "a", "c"]


def test_both_names_of_a_step():
    assert config.load("step_4_adam") == config.load("4_adam")
    with pytest.raises(UsageError, match=r"step step_4_adm does not exist; did you mean 4_adam\?"):
        config.load("step_4_adm")


@pytest.mark.parametrize(
    ("step", "base", "expected"),
    [
        ("2", "1", {}),
        ("3", "2", {}),
        ("4", "3", {"augmentation.rotation_degrees": 7.0, "optimizer.momentum": 0.95}),
        ("4_adam", "4", {"optimizer.name": "adam"}),
        ("5", "4", {"schedule.name": "step"}),
        ("5_exponential", "5", {"schedule.name": "exponential", "schedule.factor": 0.8}),
    ],
)
def test_each_step_is_one_change(step, base, expected):
    assert changes(step, base) == expected
    old, new = config.load(base), config.load(step)
    if step == "3":
        dropped = [n for n, layer in enumerate(new.network) if getattr(layer, "dropout", 0) == 0.05]
        assert dropped == [0, 1, 4, 5, 6]
        without = [
            layer.model_copy(update={"dropout": 0.0}) if n in dropped else layer
            for n, layer in enumerate(new.network)
        ]
        assert tuple(without) == old.network
    elif step != "2":
        assert new.network == old.network


def test_recipe_numbers():
    values = {name: value for name, _, value in config.options(config.load("5"))}
    assert values == {
        "goal": "stay at 99.4 % or more, in fewer than 15 epochs",
        "epochs": 20,
        "batch_size": 128,
        "seed": 1,
        "seeds": 1,
        "data": "auto",
        "hold_out": 0,
        "fold": 0,
        "evaluate_on": "auto",
        "init_from": "",
        "augmentation.rotation_degrees": 7.0,
        "augmentation.rotation_fill": 1,
        "augmentation.scale": 0.0,
        "augmentation.shift_pixels": 0.0,
        "augmentation.interpolation": "nearest",
        "optimizer.nesterov": False,
        "optimizer.name": "sgd",
        "optimizer.learning_rate": 0.01,
        "optimizer.momentum": 0.95,
        "optimizer.beta_1": 0.9,
        "optimizer.beta_2": 0.999,
        "optimizer.epsilon": 1e-8,
        "schedule.name": "step",
        "schedule.factor": 0.1,
        "schedule.every_epochs": 5,
        "schedule.warmup": 0.2,
        "loss.label_smoothing": 0.0,
        "average.decay": 0.0,
        "execution.epoch": "auto",
        "execution.seeds_together": 0,
        "execution.convolution": "auto",
        "execution.matmul_precision": "float32",
    }
    assert config.load("1").optimizer == config.load("3").optimizer == Optimizer(momentum=0.9)


def test_flags_override_the_recipe():
    expected = config.load("5")
    loaded = config.load(
        "5", {"optimizer.learning_rate": "2e-2", "epochs": "3", "schedule.name": "constant"}
    )
    assert loaded.optimizer == expected.optimizer.model_copy(update={"learning_rate": 0.02})
    assert (loaded.epochs, loaded.schedule.name) == (3, "constant")
    kept = {"network", "augmentation", "execution", "batch_size", "seed"}
    assert loaded.model_dump(include=kept) == expected.model_dump(include=kept)


@pytest.mark.parametrize(
    ("text", "number"), [(".02", 0.02), ("1e-3", 0.001), ("2", 2.0), ("0.5", 0.5)]
)
def test_the_text_of_a_number(text, number):
    assert config.load("5", {"optimizer.learning_rate": text}).optimizer.learning_rate == number


def test_the_last_convolution_gives_logits(tmp_path, capsys):
    """It has no ReLU unless the recipe sets it, which gives a warning. Other layers have ReLU."""
    file = tmp_path / "mine.toml"
    file.write_text("network = [{ conv = 4, kernel = 5 }, { conv = 10, kernel = 24 }]")
    assert [layer.relu for layer in config.load(str(file)).network] == [True, False]
    assert capsys.readouterr().err == ""
    file.write_text("network = [{ conv = 4, kernel = 5 }, { conv = 10, kernel = 24, relu = true }]")
    assert [layer.relu for layer in config.load(str(file)).network] == [True, True]
    assert "the last convolution has relu = true" in capsys.readouterr().err


def test_a_network_is_inherited_as_a_whole(tmp_path):
    """A new network does not inherit the dropout of the old one."""
    (tmp_path / "mine.toml").write_text(
        'extends = "step_5"\nnetwork = [{ conv = 10, kernel = 28 }]'
    )
    (layer,) = config.load(str(tmp_path / "mine.toml")).network
    assert layer.dropout == 0


def test_a_recipe_file_extends_a_built_in_recipe(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'extends = "step_5"\nepochs = 4\n[optimizer]\nlearning_rate = 1\n'
    )
    (tmp_path / "more.toml").write_text('extends = "mine"\nbatch_size = 64\n')
    loaded = config.load(str(tmp_path / "more.toml"))
    assert (loaded.name, loaded.epochs, loaded.batch_size) == ("more", 4, 64)
    assert loaded.optimizer == Optimizer(learning_rate=1.0, momentum=0.95)
    assert loaded.network == config.load("3").network


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TINY.encode(),
        TINY.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + TINY.replace("\n", "\r\n").encode(),
    ],
)
def test_a_recipe_as_windows_writes_it(content, tmp_path):
    for name, text in (("plain", TINY.encode()), ("windows", content)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.toml").write_bytes(text)
    assert config.load(f"{tmp_path}/windows/mine.toml") == config.load(
        f"{tmp_path}/plain/mine.toml"
    )
