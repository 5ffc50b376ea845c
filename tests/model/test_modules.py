"""What a folder of sentence-transformers says becomes the defaults of the options."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertModel

from litpool import InputError
from litpool.model.modules import read_modules

POOLING = {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}
TRANSFORMER = {"type": "sentence_transformers.models.Transformer", "path": ""}
DENSE = {"type": "sentence_transformers.models.Dense", "path": "2_Dense"}
NORMALIZE = {"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}
PROMPTS = {"query": "query: ", "passage": "passage: "}


@pytest.fixture
def folder(tiny, tokenizer_folder, tmp_path):
    """A function that makes a folder of sentence-transformers with a tiny BERT."""

    def make(modules=(), pooling=None, length=None, **config):
        path = tmp_path / "sentence-encoder"
        shutil.copytree(tokenizer_folder, path, dirs_exist_ok=True)
        torch.manual_seed(1)
        BertModel(tiny("bert", pad_token_id=0, vocab_size=80)[1]).save_pretrained(path)
        (path / "1_Pooling").mkdir(exist_ok=True)
        write = {
            "modules.json": [
                {"idx": number, "name": str(number), **module}
                for number, module in enumerate([TRANSFORMER, POOLING, *modules])
            ],
            "1_Pooling/config.json": pooling or {"pooling_mode_cls_token": True},
            "sentence_bert_config.json": {"max_seq_length": length},
            "config_sentence_transformers.json": config,
        }
        for name, content in write.items():
            (path / name).write_text(json.dumps(content))
        return str(path)

    return make


@pytest.fixture
def fit(cli, csv_file):
    def fit(name, *arguments):
        options = f"--data.source {csv_file} --trainer.max_steps 1 --trainer.accelerator cpu"
        status, out, err = cli("fit", "--model.encoder.name", name, *options.split(), *arguments)
        assert status == 0, err
        config = yaml.safe_load((Path(out.split()[-1]) / "config.yaml").read_text())
        pooling = config["model"]["pooling"]["class_path"].rpartition(".")[2]
        return out.splitlines()[0], pooling, config["data"]["max_length"], config["data"]["prefix"]

    return fit


def test_pooling_length_and_prompt_become_the_defaults(folder, fit):
    name = folder([DENSE, NORMALIZE], length=16, prompts=PROMPTS, default_prompt_name="query")
    note, *taken = fit(name)
    assert taken == ["ClsPooling", 16, "query: "]
    assert note == (
        "encoder     from its files: data.max_length 16, model.pooling ClsPooling, "
        "data.prefix 'query: '; not used: Dense, so the vectors are those before it; "
        "not used: Normalize, without which the cosine is the same; "
        "prompts that data.prefix may be set to: passage 'passage: '"
    )


def test_what_the_user_sets_stays(folder, fit):
    name = folder(length=16, prompts=PROMPTS, default_prompt_name="query")
    options = "--model.pooling MeanPooling --data.max_length 20 --data.prefix".split()
    note, *taken = fit(name, *options, "passage: ")
    assert taken == ["MeanPooling", 20, "passage: "]
    assert "from its files" not in note


def test_a_length_beyond_the_encoders_positions_is_lowered(folder, fit):
    assert fit(folder(length=512))[2] == 24


def test_any_other_encoder_has_no_modules(encoder_folder):
    assert read_modules(encoder_folder) is None


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"pooling_mode_mean_tokens": True}, ["MeanPooling"]),
        ({"pooling_mode": "lasttoken"}, ["LastTokenPooling"]),
        ({"pooling_mode": ["cls", "max"]}, ["ClsPooling", "MaxPooling"]),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            ["ClsPooling", "MeanPooling"],
        ),
    ],
)
def test_every_spelling_of_a_pooling(folder, config, names):
    pooling = read_modules(folder(pooling=config)).pooling
    parts = pooling.get("init_args", {}).get("poolings", [pooling])
    assert [part["class_path"].rpartition(".")[2] for part in parts] == names


def test_the_vectors_are_those_of_sentence_transformers(folder, cli, csv_file):
    library = pytest.importorskip("sentence_transformers")
    import litpool

    pooling = {"embedding_dimension": 32, "pooling_mode": ["mean_sqrt_len_tokens", "max"]}
    name = folder(pooling=pooling, length=16, prompts=PROMPTS, default_prompt_name="query")
    options = f"--data.source {csv_file} --trainer.max_steps 1 --model.recipe.lr 1e-30"
    status, out, err = cli(
        "fit", "--model.encoder.name", name, "--trainer.accelerator", "cpu", *options.split()
    )
    assert status == 0, err
    texts = ["a good film", "this was not a bad play " * 5]
    ours = litpool.load(out.split()[-1], device="cpu").encode(texts)
    theirs = library.SentenceTransformer(name, device="cpu").encode(texts)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("modules.json", "{", "its modules.json is not JSON"),
        ("modules.json", '[{"path": ""}]', "a file that it names is damaged"),
        ("1_Pooling/config.json", '{"pooling_mode": "median"}', "its pooling 'median' is unknown"),
    ],
)
def test_damaged_files_are_refused(folder, cli, file, content, message):
    name = folder()
    Path(name, file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_modules(name)
    status, _, err = cli("fit", "--model.encoder.name", name)
    assert (status, err.count("\n")) == (2, 1)
    assert message in err
