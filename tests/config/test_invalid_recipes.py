"""Messages for invalid recipes and flags."""

import json

import pytest
from conftest import TINY

from jaxdrill import config
from jaxdrill.errors import UsageError


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        (
            "optimizer.learning_rate",
            "-0.1",
            "--optimizer.learning-rate is -0.1; allowed: a number > 0",
        ),
        ("optimizer.learning_rate", "nan", "allowed: a number > 0"),
        ("optimizer.learning_rate", "inf", "allowed: a number > 0"),
        (
            "optimizer.learning_rate",
            "fast",
            "--optimizer.learning-rate is 'fast'; allowed: a number > 0",
        ),
        ("optimizer.momentum", "1", "a number >= 0 and < 1"),
        ("epochs", "true", "--epochs is 'true'; allowed: an integer > 0"),
        (
            "loss.label_smoothing",
            "1",
            "--loss.label-smoothing is 1; allowed: a number >= 0 and < 1",
        ),
        ("schedule.warmup", "0", "--schedule.warmup is 0; allowed: a number > 0 and < 1"),
        ("batch_size", "0", "--batch-size is 0; allowed: an integer > 0"),
        ("batch_size", "1.5", "an integer > 0"),
        ("epochs", "0", "--epochs is 0"),
        ("epochs", "", "--epochs is ''"),
        ("seed", "-1", "--seed is -1"),
        ("seeds", "0", "--seeds is 0"),
        ("augmentation.rotation_degrees", "181", "a number >= 0 and <= 180"),
        ("augmentation.rotation_fill", "256", "an integer >= 0 and <= 255"),
        ("schedule.factor", "0", "a number > 0 and <= 1"),
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
        ("\udcff", "is not encoded in UTF-8: line 1 contains the byte 0xff. Save it as UTF-8."),
        ('extends = "mine"', "extends itself: mine.toml -> mine.toml"),
        (
            'extends = "step_9"',
            "extends step_9, but step_9.toml is neither in its folder nor a built-in recipe",
        ),
        (
            "",
            "network is (); allowed: a list of 1 to 100 layers, such as { conv = 10, kernel = 3 }",
        ),
        ("network = []", "network is []; allowed: a list of 1 to 100 layers"),
        ("network = [{ conv = 3, pool = 'max' }]", "network[1] is {'conv': 3, 'pool': 'max'}"),
        ("network = [{ kernel = 3 }]", "a layer with one of conv, pool"),
        ("network = [3]", "network[1] is 3"),
        ("network = [{ conv = 0 }]", "network[1].conv is 0; allowed: an integer > 0"),
        (
            "network = [{ conv = 3, kernal = 3 }]",
            "network[1].kernal is unknown; did you mean kernel?",
        ),
        (
            "network = [{ conv = true }]",
            "network[1].conv is True; allowed: an integer > 0",
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
            "network[1].dropout is 1; allowed: a number >= 0 and < 1",
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
            "optimizer.learning_rate is '0.1'; allowed: a number > 0",
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
    """Seed 2**32 would wrap around to seed 0. Flags and recipes are combined first."""
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
        UsageError, match=r"^--seed is 4294967296; allowed: an integer >= 0 and < 4294967296$"
    ):
        config.load("5", {"seed": "4294967296"})


def test_recipes_that_extend_each_other(tmp_path):
    (tmp_path / "a.toml").write_text('extends = "b"')
    (tmp_path / "b.toml").write_text('extends = "a"')
    with pytest.raises(UsageError, match=r"extends itself: a.toml -> b.toml -> a.toml"):
        config.load(str(tmp_path / "a.toml"))


def test_unknown_step_and_missing_file(tmp_path):
    with pytest.raises(UsageError, match=r"step 4_adm does not exist; did you mean 4_adam\?"):
        config.load("4_adm")
    with pytest.raises(UsageError, match=r"the recipe .*none\.toml does not exist"):
        config.load(str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("encoding", "wrong"),
    [
        ("utf-16", "contains zero bytes, like UTF-16 and UTF-32 files"),
        ("utf-32", "contains zero bytes, like UTF-16 and UTF-32 files"),
        ("utf-16-le", "contains zero bytes, like UTF-16 and UTF-32 files"),
        ("utf-16-be", "contains zero bytes, like UTF-16 and UTF-32 files"),
        ("latin-1", "is not encoded in UTF-8: line 2 contains the byte 0xe9"),
    ],
)
def test_a_recipe_in_another_encoding(encoding, wrong, tmp_path):
    (tmp_path / "mine.toml").write_bytes(
        ('extends = "step_5"\ngoal = "caf\xe9"\n').encode(encoding)
    )
    with pytest.raises(UsageError) as error:
        config.load(f"{tmp_path}/mine.toml")
    assert f"{error.value}" == f"{tmp_path}/mine.toml {wrong}. Save it as UTF-8."


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("layer", r"network\[2\] contains '\\ud800', which is not valid Unicode"),
        ("table", r"optimizer contains '\\ud800'"),
        ("recipe", r"the recipe contains '\\ud800'"),
    ],
)
def test_a_key_that_is_not_valid_unicode(where, message, tmp_path):
    """JSON can contain such keys, TOML cannot."""
    table = json.loads(config.load("5").model_dump_json())
    holder = {"layer": table["network"][1], "table": table["optimizer"], "recipe": table}[where]
    holder["\ud800"] = True
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(UsageError, match=message):
        config.from_file(tmp_path / "config.json")
