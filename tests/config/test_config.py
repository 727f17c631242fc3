"""Recipes and the messages for wrong ones."""

import pytest
from conftest import TINY

from jaxdrill import config
from jaxdrill.config.config import Optimizer
from jaxdrill.config.layers import count_parameters
from jaxdrill.errors import UsageError


def changes(step: str, base: str) -> dict:
    """What differs between two built-in steps, network, name and goal aside."""
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
    """By the chain of `extends`, then in natural order; bases that are missing come by their own names."""
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


def test_both_names_of_a_step():
    assert config.load("step_4_adam") == config.load("4_adam")
    with pytest.raises(UsageError, match=r"there is no step step_4_adm; did you mean 4_adam\?"):
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
        "goal": "99.4 % that stays, in under 15 epochs",
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
def test_numbers_as_people_type_them(text, number):
    assert config.load("5", {"optimizer.learning_rate": text}).optimizer.learning_rate == number


def test_the_last_convolution_gives_logits(tmp_path, capsys):
    """It has no ReLU unless that is asked for, which is worth a warning; those before it have one."""
    file = tmp_path / "mine.toml"
    file.write_text("network = [{ conv = 4, kernel = 5 }, { conv = 10, kernel = 24 }]")
    assert [layer.relu for layer in config.load(str(file)).network] == [True, False]
    assert capsys.readouterr().err == ""
    file.write_text("network = [{ conv = 4, kernel = 5 }, { conv = 10, kernel = 24, relu = true }]")
    assert [layer.relu for layer in config.load(str(file)).network] == [True, True]
    assert "the last convolution has relu = true" in capsys.readouterr().err


def test_a_network_of_ones_own_inherits_no_dropout(tmp_path):
    """Its author sees errors of that network alone."""
    (tmp_path / "mine.toml").write_text(
        'extends = "step_5"\nnetwork = [{ conv = 10, kernel = 28 }]'
    )
    (layer,) = config.load(str(tmp_path / "mine.toml")).network
    assert layer.dropout == 0


def test_own_recipe_extends_a_built_in_one(tmp_path):
    (tmp_path / "mine.toml").write_text(
        'extends = "step_5"\nepochs = 4\n[optimizer]\nlearning_rate = 1\n'
    )
    (tmp_path / "more.toml").write_text('extends = "mine"\nbatch_size = 64\n')
    loaded = config.load(str(tmp_path / "more.toml"))
    assert (loaded.name, loaded.epochs, loaded.batch_size) == ("more", 4, 64)
    assert loaded.optimizer == Optimizer(learning_rate=1.0, momentum=0.95)
    assert loaded.network == config.load("3").network


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        (
            "optimizer.learning_rate",
            "-0.1",
            "--optimizer.learning-rate is -0.1; allowed: a number above 0",
        ),
        ("optimizer.learning_rate", "nan", "allowed: a number above 0"),
        ("optimizer.learning_rate", "inf", "allowed: a number above 0"),
        (
            "optimizer.learning_rate",
            "fast",
            "--optimizer.learning-rate is 'fast'; allowed: a number above 0",
        ),
        ("optimizer.momentum", "1", "a number from 0 to below 1"),
        ("epochs", "true", "--epochs is 'true'; allowed: a whole number of at least 1"),
        (
            "loss.label_smoothing",
            "1",
            "--loss.label-smoothing is 1; allowed: a number from 0 to below 1",
        ),
        ("schedule.warmup", "0", "--schedule.warmup is 0; allowed: a number above 0 and below 1"),
        ("batch_size", "0", "--batch-size is 0; allowed: a whole number of at least 1"),
        ("batch_size", "1.5", "a whole number of at least 1"),
        ("epochs", "0", "--epochs is 0"),
        ("epochs", "", "--epochs is ''"),
        ("seed", "-1", "--seed is -1"),
        ("seeds", "0", "--seeds is 0"),
        ("augmentation.rotation_degrees", "181", "a number from 0 to 180"),
        ("augmentation.rotation_fill", "256", "a whole number from 0 to 255"),
        ("schedule.factor", "0", "a number above 0 and up to 1"),
        (
            "schedule.name",
            "stepp",
            "one of constant, step, exponential, triangle; did you mean step?",
        ),
        ("optimizer.name", "sdg", "did you mean sgd?"),
        ("data", "fashion-mnist", "did you mean fashion_mnist?"),
        (
            "learning_rate",
            "1",
            "--learning-rate is unknown; did you mean --optimizer.learning-rate?",
        ),
        (
            "seeds",
            "4294967296",
            "--seeds is 4294967296; allowed: at most 4294967295, because seed is 1 and seed + seeds"
            " must not exceed 4294967296 (2**32)",
        ),
    ],
)
def test_a_flag_out_of_range(flag, text, message):
    with pytest.raises(UsageError) as error:
        config.load("5", {flag: text})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epochs = ", "is not valid TOML"),
        ("\udcff", "is not encoded in UTF-8: line 1 has the byte 0xff. Save it as UTF-8."),
        ('extends = "mine"', "extends itself: mine.toml -> mine.toml"),
        ('extends = "step_9"', "extends step_9, and there is no step_9.toml"),
        ("", "network must be a list of layers"),
        ("network = []", "network must be a list of layers"),
        ("network = [{ conv = 3, pool = 'max' }]", "network[1] is {'conv': 3, 'pool': 'max'}"),
        ("network = [{ kernel = 3 }]", "a layer with one of conv, pool"),
        ("network = [3]", "network[1] is 3"),
        ("network = [{ conv = 0 }]", "network[1].conv is 0; allowed: a whole number of at least 1"),
        (
            "network = [{ conv = 3, kernal = 3 }]",
            "network[1].kernal is unknown; did you mean kernel?",
        ),
        (
            "network = [{ conv = true }]",
            "network[1].conv is True; allowed: a whole number of at least 1",
        ),
        (
            "network = [{ conv = 10, kernel = 28, dropout = 1e-6 }]",
            "network[1].dropout is 1e-06; allowed: 0, or a number",
        ),
        (
            "network = [{ conv = 10, kernel = 28, dropout = 0.999999 }]",
            "network[1].dropout is 0.999999; allowed: 0, or",
        ),
        (
            "network = [{ conv = 10, kernel = 28, dropout = 1 }]",
            "network[1].dropout is 1; allowed: a number from 0 to",
        ),
        (TINY + "dropout = { rate = 0.1, after = [1] }", "dropout is unknown"),
        ("network = [{ pool = 'min' }]", "network[1].pool is 'min'; allowed: one of max, average"),
        (TINY + "epoch = 3", "epoch is unknown; did you mean epochs?"),
        (
            TINY + "learning_rate = 3",
            "learning_rate is unknown; did you mean optimizer.learning_rate?",
        ),
        (TINY + "[optimizer]\nlr = 0.1", "optimizer.lr is unknown; did you mean learning_rate?"),
        (TINY + "name = 'x'", "name is unknown"),
        (TINY + "optimizer = 3", "optimizer is 3; allowed: a table"),
        (
            TINY + "[optimizer]\nlearning_rate = '0.1'",
            "optimizer.learning_rate is '0.1'; allowed: a number above 0",
        ),
        (
            TINY + "[optimizer]\nmomentun = 0.1",
            "optimizer.momentun is unknown; did you mean momentum?",
        ),
        (TINY + "[schedule]\nevery_epochs = 0", "schedule.every_epochs is 0"),
        (
            TINY + "seed = 4294967295\nseeds = 2",
            "seeds is 2; allowed: at most 1, because seed is 4294967295 and seed + "
            "seeds must not exceed 4294967296 (2**32)",
        ),
    ],
)
def test_a_wrong_recipe(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(UsageError) as error:
        config.load(str(path))
    assert message in str(error.value)
    assert "mine.toml" in str(error.value)


def test_seeds_up_to_the_last(tmp_path):
    """Seed 2**32 would be seed 0 again. It does not matter which of the two a flag and which the recipe gives."""
    (tmp_path / "mine.toml").write_text(TINY + "seeds = 2")
    last = config.load(str(tmp_path / "mine.toml"), {"seed": "4294967294"})
    assert (last.seed, last.seeds) == (2**32 - 2, 2)
    assert config.load("5", {"seed": "4294967295"}).seeds == 1
    why = "because seed is 4294967295 and seed + seeds must not exceed 4294967296 (2**32)"
    with pytest.raises(UsageError) as error:
        config.load(str(tmp_path / "mine.toml"), {"seed": "4294967295"})
    assert f"{error.value}" == f"{tmp_path / 'mine.toml'}: seeds is 2; allowed: at most 1, {why}"
    with pytest.raises(UsageError) as error:
        config.load("5", {"seed": "4294967295", "seeds": "2"})
    assert f"{error.value}" == f"--seeds is 2; allowed: at most 1, {why}"
    with pytest.raises(
        UsageError, match=r"^--seed is 4294967296; allowed: a whole number from 0 to 4294967295$"
    ):
        config.load("5", {"seed": "4294967296"})


def test_recipes_that_extend_each_other(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b"')
    (tmp_path / "b.toml").write_text('extends = "a"')
    with pytest.raises(UsageError, match=r"extends itself: a.toml -> b.toml -> a.toml"):
        config.load(str(tmp_path / "a.toml"))


def test_unknown_step_and_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"there is no step 4_adm; did you mean 4_adam\?"):
        config.load("4_adm")
    with pytest.raises(UsageError, match=r"there is no recipe .*none\.toml"):
        config.load(str(tmp_path / "none.toml"))


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


@pytest.mark.parametrize(
    ("encoding", "wrong"),
    [
        ("utf-16", "is encoded in UTF-16"),
        ("utf-32", "is encoded in UTF-32"),
        ("utf-16-le", "contains zero bytes, as UTF-16 does"),
        ("utf-16-be", "contains zero bytes, as UTF-16 does"),
        ("latin-1", "is not encoded in UTF-8: line 2 has the byte 0xe9"),
    ],
)
def test_a_recipe_in_another_encoding(encoding, wrong, tmp_path):
    (tmp_path / "mine.toml").write_bytes(
        ('extends = "step_5"\ngoal = "caf\xe9"\n').encode(encoding)
    )
    with pytest.raises(UsageError) as error:
        config.load(f"{tmp_path}/mine.toml")
    assert f"{error.value}" == f"{tmp_path}/mine.toml {wrong}. Save it as UTF-8."
