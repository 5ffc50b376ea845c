"""Every loop trains every task to the same weights, scores it and predicts with it."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

WORDS = "a bad dull film fine good great is not play poor the this was"
LOOPS = ("fit", "fit_hf", "fit_plain")
PAIR = "--task.text [left,right]"
SCORE = "--task.label score --task.score_range [0,5]"
TASKS = {
    "regression": f"--task Regression {PAIR} {SCORE}",
    "regression, any range": "--task Regression --task.text left --task.label score",
    "cosine": f"--task Similarity {PAIR} {SCORE}",
    "softmax": f"--task Similarity {PAIR} --task.label kind --task.objective softmax",
    "contrastive": f"--task Similarity {PAIR} --task.objective contrastive",
    "hard negatives": (
        "--task Similarity --task.text [left,right,wrong] --task.objective contrastive"
    ),
    "questions": "--task QuestionAnswering --task.doc_stride 4 --data.max_length 14",
    "questions, some without answer": "--task QuestionAnswering --task.no_answer true",
}
METRICS = {
    "regression": {"spearman", "pearson", "mae", "loss"},
    "regression, any range": {"spearman", "pearson", "mae", "loss"},
    "cosine": {"spearman", "pearson", "loss"},
    "softmax": {"accuracy", "f1", "loss"},
    "contrastive": {"recall@1", "recall@5", "recall@10", "mrr", "loss"},
    "hard negatives": {"recall@1", "recall@5", "recall@10", "mrr", "loss"},
    "questions": {"exact_match", "f1", "loss"},
    "questions, some without answer": {
        "exact_match",
        "f1",
        "f1_answerable",
        "f1_unanswerable",
        "loss",
    },
}
ANSWERS = {
    "regression": {"left", "right", "score"},
    "regression, any range": {"left", "score"},
    "cosine": {"left", "right", "cosine"},
    "softmax": {"left", "right", "cosine", "label", "probabilities"},
    "contrastive": {"left", "right", "cosine"},
    "hard negatives": {"left", "right", "wrong", "cosine"},
    "questions": {"id", "question", "answer", "start", "end", "probability"},
    "questions, some without answer": {"id", "question", "answer", "start", "end", "probability"},
}


def write_rows(path, answerable):
    """Write rows with the columns of all tasks; each question names the word that answers it."""
    rng = random.Random(0)
    words = WORDS.split()
    rows = []
    for number in range(60):
        left, right, wrong = (" ".join(rng.choices(words, k=rng.randint(2, 7))) for _ in range(3))
        context = " ".join(rng.choices(words, k=10))
        word = rng.choice(context.split())
        answers = {"text": [], "answer_start": []}
        if answerable or number % 3:
            answers = {"text": [word], "answer_start": [context.index(word)]}
        texts = {"left": left, "right": right, "wrong": wrong}
        scores = {"score": rng.randint(0, 10) / 2, "kind": rng.choice(["no", "yes"])}
        question = {"id": f"q{number}", "question": f"is {word}", "context": context}
        rows.append({**texts, **scores, **question, "answers": answers})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def arguments(tmp_path, request):
    source = write_rows(tmp_path / "rows.jsonl", "without" not in request.node.name)
    data = ("--data.source", source, "--model.pooling", "MeanPooling")
    return lambda name: (*TASKS[name].split(), *data)


QUICK = ("regression", "contrastive", "questions")  # the others are `slow`


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in TASKS]
)
def test_a_task_is_trained_alike_in_all_loops_scored_and_answers(
    name, train, cli, arguments, tmp_path
):
    runs = {loop: train(loop, *arguments(name)) for loop in LOOPS}
    assert runs["fit"]["steps"] == runs["fit_hf"]["steps"] == runs["fit_plain"]["steps"]
    assert runs["fit"]["sha256"] == runs["fit_hf"]["sha256"] == runs["fit_plain"]["sha256"]
    assert runs["fit"]["metrics"] == runs["fit_hf"]["metrics"] == runs["fit_plain"]["metrics"]
    scores = {
        metric: value
        for metric, value in runs["fit"]["metrics"].items()
        if metric.startswith("test/")
    }
    assert {key.removeprefix("test/") for key in scores if key.count("/") == 1} == METRICS[name]
    best = runs["fit_hf"]["folder"] / "checkpoints/best.ckpt"
    status, out, err = cli("test", "--ckpt_path", best)
    assert status == 0, err
    assert json.loads((tmp_path / out.split()[-1] / "metrics.json").read_text()) == scores
    status, _, err = cli("predict", "--ckpt_path", best, "--input", tmp_path / "rows.jsonl")
    assert status == 0, err
    answers = [
        json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
    ]
    assert len(answers) == 60
    assert set(answers[0]) == ANSWERS[name]


def test_a_similarity_checkpoint_gives_vectors_of_single_texts(train, cli, arguments, tmp_path):
    best = train("fit", *arguments("softmax"))["folder"] / "checkpoints/best.ckpt"
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    sides = {}
    for side in ("left", "right"):
        files = ("--ckpt_path", best, "--input", tmp_path / "rows.jsonl")
        for output in (f"{side}.npz", f"{side}.parquet", f"{side}.jsonl"):
            status, out, err = cli("predict", *files, "--task.text", side, "--output", output)
            assert (status, out) == (0, f"wrote {output}\n"), err
        sides[side] = np.load(tmp_path / f"{side}.npz")["vectors"]
        assert sides[side].shape == (60, 32)
        table = pq.read_table(tmp_path / f"{side}.parquet")
        assert table[side].to_pylist() == [row[side] for row in rows]
        assert np.array_equal(np.array(table["vector"].to_pylist(), np.float32), sides[side])
    cli("predict", "--ckpt_path", best, "--input", tmp_path / "rows.jsonl")
    cosines = [
        json.loads(line)["cosine"]
        for line in (tmp_path / "predictions.jsonl").read_text().splitlines()
    ]
    unit = {
        side: vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for side, vectors in sides.items()
    }
    assert cosines == pytest.approx((unit["left"] * unit["right"]).sum(1).tolist(), abs=1e-5)
    status, _, err = cli(
        "predict", "--ckpt_path", best, "--input", tmp_path / "rows.jsonl", "--output", "pairs.npz"
    )
    assert (status, err) == (
        2,
        "error: output=pairs.npz: .npz holds vectors only; use .jsonl or .parquet\n",
    )


def test_what_softmax_learned_is_scored_by_cosine(train, cli, arguments, tmp_path):
    best = train("fit", *arguments("softmax"))["folder"] / "checkpoints/best.ckpt"
    scores = ("--task.objective", "cosine", "--task.label", "score", "--task.score_range", "[0, 5]")
    status, out, err = cli("test", "--ckpt_path", best, *scores)
    assert status == 0, err
    assert "spearman" in out
